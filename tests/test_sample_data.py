"""The built-in data set: same pixels for a seed, ICAA17K's layout, and a rule that needs place."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor

import sample_data
from errors import UserError
from labels import DataSpec, Labels, load_splits
from prepared import Transform
from sample_data import FOLDERS, STAMP, ensure_sample
from verify import ICAA17K_FOLDERS, verify


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_sample(tmp_path_factory.mktemp("data") / "sample")


@pytest.fixture(scope="module")
def splits(sample: Path) -> dict[str, Labels]:
    return load_splits(DataSpec("sample", sample))


def scene_of(image: str) -> sample_data.Scene:
    """The scene that an image of seed 0 was painted from."""
    folder, _, name = image.rpartition("/")
    number = int(name.removesuffix(".jpg")[-2:])
    return sample_data.draw_scene(np.random.default_rng((0, FOLDERS.index(folder), number)))


def test_layout_is_icaa17ks(sample: Path, splits: dict[str, Labels], shared: Path) -> None:
    assert {name: len(labels) for name, labels in splits.items()} == {"train": 600, "test": 150}
    assert not set(splits["train"].ids) & set(splits["test"].ids)
    for name, per_folder in (("train", 20), ("test", 5)):
        folders = Counter(image.rpartition("/")[0] for image in splits[name].ids)
        assert folders == dict.fromkeys(ICAA17K_FOLDERS, per_folder)
    for table in ("1all.csv", "1train.csv", "1test.csv"):
        published = (shared / "data/icaa17k" / table).read_text().splitlines()[0]
        assert (sample / table).read_text().splitlines()[0] == published
    assert verify(DataSpec("sample", sample)).ok


def test_scores_resemble_icaa17ks(splits: dict[str, Labels]) -> None:
    mos, color = np.concatenate([labels.scores for labels in splits.values()]).T
    assert color.mean() == pytest.approx(5.95, abs=0.15)
    assert 0.9 < color.std() < 1.2
    assert 2 < color.min() < 3.6
    assert 8 < color.max() < 9.9
    assert 1 <= mos.min() <= mos.max() <= 10
    assert 0.4 < spearmanr(mos, color).statistic < 0.6


def test_the_documented_rule_explains_the_scores_and_needs_place(splits: dict[str, Labels]) -> None:
    train = splits["train"]
    scenes = [scene_of(name) for name in train.ids]
    rule = [sample_data.noise_free_color(scene) for scene in scenes]
    assert 0.955 < spearmanr(rule, train.rating).statistic < 0.985
    factors = np.array([sample_data.factors(scene) for scene in scenes])
    assert factors.min() >= 0
    assert factors.max() <= 1
    without_place = spearmanr(factors[:, :2].sum(axis=1), train.rating).statistic
    assert without_place < 0.75
    assert abs(np.corrcoef(factors.T)[0, 2]) < 0.1  # the factors are independent


def test_place_is_high_inside_and_low_at_the_border() -> None:
    spots = np.array([(0.5, 0.5), (1 / 3, 2 / 3), (0.5, 0.9), (0.1, 0.1)])
    np.testing.assert_allclose(sample_data.place(spots), [1, 119 / 144, 0, 0], atol=1e-12)


def test_global_colors_alone_do_not_tell_the_score(splits: dict[str, Labels]) -> None:
    def colors(labels: Labels) -> np.ndarray:
        """Joint histogram of hue, saturation and value, and their means and deviations."""
        rows = []
        for path in labels.paths:
            with Image.open(path) as image:
                hsv = np.asarray(image.convert("HSV")).reshape(-1, 3)
            joint = np.histogramdd(hsv, (8, 4, 4), ((0, 256),) * 3)[0].ravel() / len(hsv)
            rows.append(np.concatenate([joint, hsv.mean(axis=0), hsv.std(axis=0)]))
        return np.array(rows)

    model = ExtraTreesRegressor(200, random_state=0)
    model.fit(colors(splits["train"]), splits["train"].rating)
    predicted = model.predict(colors(splits["test"]))
    assert 0.3 < spearmanr(predicted, splits["test"].rating).statistic < 0.75


def test_same_seed_same_files_other_seed_others(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in (sample / "monochromatic/red").iterdir())
    monkeypatch.setattr(sample_data, "FOLDERS", FOLDERS[:2])
    for name, seed in (("0", 0), ("1", 1)):
        (tmp_path / name).mkdir()
        sample_data.generate(tmp_path / name, seed)
    assert len(names) == 25
    folder = sample / FOLDERS[0]
    for path in folder.iterdir():
        again = tmp_path / "0" / FOLDERS[0] / path.name
        assert again.read_bytes() == path.read_bytes()
        other = tmp_path / "1" / FOLDERS[0] / path.name
        assert not np.array_equal(Transform(32).load(other), Transform(32).load(path))
    rows = (tmp_path / "0" / "1all.csv").read_text().splitlines()
    assert rows == (sample / "1all.csv").read_text().splitlines()[: len(rows)]


def quick(root: Path, seed: int = 0) -> None:
    """In place of `generate`: one file, slowly, complaining when another is at it."""
    (root / "busy").mkdir()
    with (root.parent.parent / "generated").open("a") as file:
        file.write("once\n")
    (root / STAMP).write_text(f"{sample_data.VERSION}\n")


def ensure_quickly(root: Path, barrier: object) -> None:
    sample_data.generate = quick
    barrier.wait()
    ensure_sample(root)


def test_two_processes_at_once_generate_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    root = tmp_path / "sample"
    workers = [context.Process(target=ensure_quickly, args=(root, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "generated").read_text() == "once\n"
    assert (root / STAMP).is_file()


def test_replaced_only_when_another_version_or_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_data, "generate", quick)
    root = tmp_path / "sample"
    ensure_sample(root)
    (root / "mine").touch()
    ensure_sample(root)
    assert (root / "mine").exists()
    ensure_sample(root, again=True)
    assert not (root / "mine").exists()
    (root / "mine").touch()
    monkeypatch.setattr(sample_data, "VERSION", sample_data.VERSION + 1)
    ensure_sample(root)
    assert not (root / "mine").exists()
    assert (tmp_path / "generated").read_text() == "once\n" * 3


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(root: Path, seed: int = 0) -> None:
        quick(root)
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_data, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        ensure_sample(tmp_path / "sample")
    assert not (tmp_path / "sample").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="something other than the sample data set"):
        ensure_sample(tmp_path)
    assert (tmp_path / "photo.jpg").exists()
    with pytest.raises(UserError, match="cannot be written"):
        ensure_sample(tmp_path / "photo.jpg" / "sample")
