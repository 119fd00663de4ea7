"""Training end to end on a few images: what a run leaves, resuming, selection, evaluation."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats
from tiny import write_tiny_dataset
from torch import Tensor

import setting
import train_nni
from config_layers import resolve_config
from errors import UserError
from labels import Labels
from models import build_model, load_model
from progress import Progress
from reproduce.published import published_metrics
from results import Scored, format_table
from setting import build_splits
from train_nni import main, run

EPOCHS = 3


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("tiny data")
    return [*write_tiny_dataset(root), "--epochs", str(EPOCHS), "--drop-path", "0.3"]


@pytest.fixture(scope="module")
def trained(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted training."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*flags, "--output", str(output)]) == 0
    return output


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_folder_holds_everything(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.yaml", "environment.json", "epochs.csv", "metrics.json", "best"}
    assert names >= {"last", "predictions.csv", "scatter.png", "learning_curve.png"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.startswith(".tmp") for name in names)
    assert yaml.safe_load((trained / "config.yaml").read_text())["drop_path"] == 0.3
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    epochs = read_csv(trained / "epochs.csv")
    assert [int(row["epoch"]) for row in epochs] == [1, 2, 3]
    # Only what `best` and `last` point to is kept.
    linked = {(trained / link).resolve().name for link in ("best", "last")}
    assert {path.name for path in (trained / "epochs").iterdir()} == linked
    best = max(epochs, key=lambda row: float(row["srcc"]))
    assert (trained / "best").resolve().name == f"{int(best['epoch']):04d}"
    for picture in ("scatter.png", "learning_curve.png"):
        assert (trained / picture).read_bytes().startswith(b"\x89PNG")


def test_reported_numbers_follow_from_the_predictions(trained: Path) -> None:
    rows = read_csv(trained / "predictions.csv")
    label = np.array([float(row["label"]) for row in rows])
    prediction = np.array([float(row["prediction"]) for row in rows])
    assert [row["image"] for row in rows] == [f"test {i}.png" for i in range(6)]
    assert label == pytest.approx([1 + (i + 0.5) for i in range(6)])  # on the label's own scale
    assert {"label_quality", "prediction_quality"} <= set(rows[0])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["target"] == "beauty"
    assert metrics["test"]["images"] == 6
    beauty = metrics["test"]["targets"]["beauty"]
    expected = {
        "srcc": stats.spearmanr(label, prediction).statistic,
        "plcc": stats.pearsonr(label, prediction).statistic,
        "rmse": math.sqrt(np.mean((label - prediction) ** 2)),
        "accuracy": np.mean((label > 4) == (prediction > 4)),
        "majority_accuracy": 0.5,
    }
    assert {n: beauty[n]["value"] for n in expected} == pytest.approx(expected, abs=1e-5)
    epochs = read_csv(trained / "epochs.csv")
    best = epochs[metrics["best_epoch"] - 1]
    assert metrics["val"]["targets"]["beauty"]["srcc"]["value"] == pytest.approx(
        float(best["srcc"])
    )


def test_checkpoint_says_what_its_scores_mean(trained: Path, flags: list[str]) -> None:
    model = load_model(trained / "best")
    assert model.config.targets == ("quality", "beauty")
    assert model.extra["dataset"] == "csv"
    assert model.extra["unit_range"] == [1.0, 7.0]
    assert model.extra["threshold"] == 4.0
    train = build_splits(resolve_config(flags, {}))["train"]
    quantiles = model.extra["label_quantiles"]["beauty"]
    assert len(quantiles) == 101
    assert quantiles[50] == pytest.approx(np.median(train.rating))
    assert (quantiles[0], quantiles[100]) == (train.rating.min(), train.rating.max())


class Stopped(Exception):
    """Stands for the kill of a run."""


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stop: int, trained: Path, flags: list[str], tmp_path: Path
) -> None:
    def stop_after(row: Mapping[str, float]) -> None:
        if row["epoch"] == stop:
            raise Stopped

    output = tmp_path / "stopped"
    with pytest.raises(Stopped):
        run(resolve_config([*flags, "--output", str(output)], {}), stop_after)
    assert main(["--resume", "--output", str(output)]) == 0

    for link in ("last", "best"):
        ours, whole = (load_model(folder / link).state_dict() for folder in (output, trained))
        assert all(torch.equal(ours[name], whole[name]) for name in whole)
    states = [
        torch.load(folder / "last/training_state.pt", weights_only=True)
        for folder in (output, trained)
    ]
    assert_equal_states(*states)
    assert (output / "predictions.csv").read_text() == (trained / "predictions.csv").read_text()


def assert_equal_states(ours: object, other: object) -> None:
    """Exact equality of nested training states, wall-clock times apart."""
    if isinstance(ours, Tensor):
        assert torch.equal(ours, other)
    elif isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours.keys() - {"seconds"}:
            assert_equal_states(ours[key], other[key])
    elif isinstance(ours, list):
        assert len(ours) == len(other)
        for pair in zip(ours, other, strict=True):
            assert_equal_states(*pair)
    else:
        assert ours == other


def test_resume_refuses_another_configuration(trained: Path) -> None:
    argv = ["--resume", "--output", str(trained), "--lr", "0.5", "--epochs", "9"]
    with pytest.raises(UserError, match=r"another configuration: lr 0.001 -> 0.5; only epochs"):
        main(argv)


def test_resuming_a_finished_run_trains_no_more(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "last").resolve(), (trained / "predictions.csv").read_text()
    assert main(["--resume", "--output", str(trained), "--workers", "1"]) == 0
    assert before == ((trained / "last").resolve(), (trained / "predictions.csv").read_text())
    assert "epoch 4" not in capsys.readouterr().out


def test_evaluate_repeats_the_test_scores(trained: Path, flags: list[str], tmp_path: Path) -> None:
    """The network, its targets and their order come from the checkpoint."""
    test_csv = flags[flags.index("--test-csv") + 1]
    argv = ["--evaluate", "--init-from", str(trained / "best"), "--score-range", "1,7"]
    argv += ["--batch-size", "4"]  # as in training: other batches, other rounding
    output = tmp_path / "evaluated"
    assert main([*argv, "--test-csv", test_csv, "--output", str(output), "--device", "cpu"]) == 0
    assert not (output / "epochs").exists()
    assert (output / "predictions.csv").read_text() == (trained / "predictions.csv").read_text()


def test_seeds_repeat_in_subfolders(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seeds"
    argv = [*flags, "--epochs", "1", "--seeds", "4,5", "--output", str(output)]
    assert main(argv) == 0
    text = capsys.readouterr().out
    per_seed = [
        json.loads((output / f"seed-{seed}/metrics.json").read_text())["test"] for seed in (4, 5)
    ]
    values = [summary["targets"]["beauty"]["rmse"]["value"] for summary in per_seed]
    assert values[0] != values[1]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in text


def test_the_test_split_is_scored_once(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the test split is looked at before the weights are chosen."""
    scored: list[tuple[str, ...]] = []
    monkeypatch.setattr(train_nni, "predict", fake_predict(scored))
    monkeypatch.setattr(train_nni, "train_epoch", skip_steps)
    monkeypatch.setattr(train_nni, "write_results", lambda *_: {})
    config = resolve_config(flags, {})
    splits = build_splits(config)
    for protocol, expected in (
        ("holdout", ["val"] * EPOCHS + ["val", "test"]),
        ("paper", ["test"] * EPOCHS + ["test"]),
    ):
        scored.clear()
        output = Path(splits["train"].source).parent / protocol
        run(resolve_config([*flags, "--protocol", protocol, "--output", str(output)], {}))
        assert [name_of(ids, splits) for ids in scored] == expected


def skip_steps(_: object, training: train_nni.Training, progress: Progress, stop: object) -> None:
    """A `train_epoch` that does nothing."""
    progress.step = training.loader.batch_sampler.steps


def fake_predict(scored: list[tuple[str, ...]]):  # noqa: ANN201
    """A `predict` that notes which images it was asked for."""

    def predict(setting: object, model: object, loader: object, name: str) -> tuple:
        labels = loader.dataset.labels
        scored.append(tuple(labels.ids))
        return labels.unit_scores.astype(float), 0.0

    return predict


def name_of(ids: tuple[str, ...], splits: dict[str, Labels]) -> str:
    return next(name for name, labels in splits.items() if tuple(labels.ids) == ids)


def test_splits_do_not_overlap_and_a_missing_test_split_is_carved(flags: list[str]) -> None:
    at = flags.index("--test-csv")
    without_test = flags[:at] + flags[at + 2 :]
    splits, other_seed = (
        build_splits(resolve_config([*without_test, "--seed", seed], {})) for seed in ("0", "1")
    )
    ids = [set(labels.ids) for labels in splits.values()]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 14
    assert splits["test"].ids == other_seed["test"].ids  # the same for all runs
    assert splits["val"].ids != other_seed["val"].ids


def test_an_undefined_srcc_is_never_the_best() -> None:
    progress = Progress()
    for epoch, srcc in enumerate([math.nan, -0.2, math.nan, 0.4, 0.4], start=1):
        progress.add({"epoch": epoch, "srcc": srcc})
    assert (progress.best_epoch, progress.best_srcc) == (4, 0.4)


def test_dead_color_points_warn_with_the_way_out(
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build_with_dead_points(*args: object, **options: object) -> torch.nn.Module:
        model = build_model(*args, **options)
        torch.nn.init.constant_(model.head.color_points.bias, 9.0)  # far outside of [0, 1]
        return model

    monkeypatch.setattr(setting, "build_model", build_with_dead_points)
    argv = [*flags, "--epochs", "2", "--color-point-range", "free", "--output", str(tmp_path / "x")]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert text.count("--color-point-range unit") == 1
    assert "dead color points 100%" in text
    shares = [float(row["dead_color_points"]) for row in read_csv(tmp_path / "x/epochs.csv")]
    assert shares == [1.0, 1.0]


def write_tiny_ava(root: Path, count: int) -> None:
    """AVA.txt, a list of test ids and the images, whose votes gather at one rating each."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        red = index / (count - 1)
        votes = [1] * 10
        votes[round(9 * red)] += 40
        lines.append(" ".join(map(str, [index + 1, 100 + index, *votes, 0, 0, 1])))
        pixels = rng.integers(0, 60, (24, 32, 3), dtype=np.uint8)
        pixels[..., 0] = 255 * red
        Image.fromarray(pixels).save(root / "images" / f"{100 + index}.jpg")
    (root / "AVA.txt").write_text("\n".join(lines) + "\n")
    (root / "test.jpgl").write_text("".join(f"{100 + index}\n" for index in range(0, count, 3)))


def test_pretraining_on_ava_feeds_fine_tuning(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_ava(tmp_path / "ava", 15)
    argv = ["--dataset", "ava", "--data-root", str(tmp_path / "ava"), "--model", "delegate_nano"]
    argv += ["--test-list", str(tmp_path / "ava/test.jpgl"), "--epochs", "1", "--amp", "bf16"]
    argv += ["--device", "cpu", "--workers", "0", "--batch-size", "5", "--val-fraction", "0.3"]
    assert main([*argv, "--output", str(tmp_path / "pretrained")]) == 0
    rows = read_csv(tmp_path / "pretrained/predictions.csv")
    assert [row["image"] for row in rows] == [f"{100 + index}.jpg" for index in range(0, 15, 3)]
    assert float(rows[0]["label"]) == pytest.approx((41 + sum(range(2, 11))) / 50)  # mean rating
    assert all(4 < float(row["prediction"]) < 7 for row in rows)
    assert "dead color points" not in capsys.readouterr().out  # no color spaces

    start = ["--init-from", str(tmp_path / "pretrained/best"), "--epochs", "1"]
    assert main([*flags, *start, "--output", str(tmp_path / "tuned")]) == 0
    assert "head.color_points" in capsys.readouterr().out  # reported as not in the checkpoint


def test_a_cnn_starts_from_imagenet_and_is_evaluated_from_its_folder(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = flags.index("--model")
    argv = [*flags[:at], *flags[at + 2 :], "--epochs", "1"]  # delegate_cnn is the default of csv
    assert main([*argv, "--output", str(tmp_path / "cnn")]) == 0
    config = yaml.safe_load((tmp_path / "cnn/config.yaml").read_text())
    assert (config["model"], config["backbone_weights"]) == ("delegate_cnn", "imagenet")
    again = ["--evaluate", "--init-from", str(tmp_path / "cnn/best"), "--score-range", "1,7"]
    again += ["--test-csv", flags[flags.index("--test-csv") + 1], "--device", "cpu"]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    scores = [
        [float(row["prediction"]) for row in read_csv(tmp_path / name / "predictions.csv")]
        for name in ("cnn", "again")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_papers_row_stands_beside_its_data_set() -> None:
    label = np.array([[4.0, 4.0], [6.0, 6.0], [7.0, 8.0]])
    scored = Scored(("a", "b", "c"), ("MOS", "color"), label, label, 5.0, (0.0, 10.0))
    table = format_table(
        {"test": scored.summary(samples=0, seed=0)},
        target="color",
        paper=published_metrics("icaa17k", scored.names),
    )
    assert "paper, test: Ours *2" in table
    assert table.splitlines()[2].split() == ["SRCC", "1.000", "0.887"]
