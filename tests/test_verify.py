"""`verify` and `leakage`: each kind of problem is found, and the published label files pass."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import write_jpegs

from errors import UserError
from labels import DataSpec
from verify import leakage, verify


def write_set(root: Path, train: dict[str, object], test: dict[str, object]) -> DataSpec:
    """A csv data set of {image name: score}, with an image for every name."""
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("test", test)):
        lines = ["file,score", *(f"{name},{score}" for name, score in rows.items())]
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    write_jpegs(root, list(train | test))
    return DataSpec(
        "csv",
        root,
        train_csv=Path("train.csv"),
        test_csv=Path("test.csv"),
        score_columns=("score",),
        score_range=(0, 10),
    )


@pytest.fixture
def sound(tmp_path: Path) -> DataSpec:
    return write_set(tmp_path, {"a.jpg": 1, "b.jpg": 6, "c.jpg": 8}, {"d.jpg": 9})


def kinds(spec: DataSpec) -> list[str]:
    return [problem.kind for problem in verify(spec, workers=2).problems]


def test_a_sound_set_passes_with_its_statistics(sound: DataSpec) -> None:
    report = verify(sound, workers=2)
    assert report.ok
    assert not report.notes
    lines = {line.split()[0]: line.split()[1:] for line in str(report).splitlines()[:4]}
    assert lines["train"] == ["3", "1", "1.00", "5.00", "8.00", "66.7%", "-"]
    assert lines["all"] == ["4", "1", "1.00", "6.00", "9.00", "75.0%", "-"]


def test_every_problem_is_found_and_listed(sound: DataSpec) -> None:
    root = sound.data_root
    (root / "a.jpg").unlink()
    (root / "b.jpg").write_bytes((root / "b.jpg").read_bytes()[:300])
    with (root / "train.csv").open("a") as file:
        file.write("c.jpg,8\nd.jpg,9\ne.jpg,eleven\nf.jpg,11\n")
    write_jpegs(root, [f"{i}.jpg" for i in range(4)] + ["e.jpg", "f.jpg"])
    report = verify(sound)
    assert sorted(problem.kind for problem in report.problems) == sorted(
        ["score", "score", "duplicate", "overlap", "missing", "broken"]
    )
    text = str(report)
    assert not report.ok
    assert "row 7: score is 'eleven', not in 0..10" in text
    assert "row 8: score is '11'" in text
    assert "row 5 (c.jpg) repeats row 4" in text
    assert "row 2 (a.jpg): no image file" in text
    assert "row 3 (b.jpg)" in text
    assert "not an image that can be decoded" in text


def test_equal_files_in_train_and_test_are_a_leak(sound: DataSpec) -> None:
    root = sound.data_root
    shutil.copy(root / "b.jpg", root / "d.jpg")
    assert kinds(sound) == ["leak"]
    assert "row 2 (d.jpg) has the content of a train image" in str(verify(sound))
    shutil.copy(root / "a.jpg", root / "c.jpg")
    assert "1 train images are byte for byte copies" in str(verify(sound))


def test_one_photograph_in_two_folders_is_noted(tmp_path: Path) -> None:
    spec = write_set(tmp_path, {"red/a.jpg": 3, "red/b.jpg": 4}, {"blue/a.jpg": 3})
    shutil.copy(tmp_path / "red/a.jpg", tmp_path / "blue/a.jpg")
    report = verify(spec)
    assert report.ok
    assert "1 of 1 test images have a namesake with the same scores" in str(report)


def test_misuse_is_an_error(sound: DataSpec) -> None:
    with pytest.raises(UserError, match="--score-range"):
        verify(replace(sound, score_range=None))


def test_leakage_by_path_name_and_content(tmp_path: Path) -> None:
    first = write_set(
        tmp_path / "1", {"x/p.jpg": 1}, {"x/q.jpg": 1, "x/r.jpg": 1, "x/s.jpg": 1, "7.jpg": 1}
    )
    second = write_set(
        tmp_path / "2", {"x/q.JPG": 1, "y/r.jpg": 1, "z.jpg": 1, "y/7.jpg": 1}, {"clean.jpg": 1}
    )
    for folder, names in (("1", ["x/p.jpg"]), ("2", ["clean.jpg", "y/7.jpg"])):
        for name in names:  # contents of their own
            with (tmp_path / folder / name).open("ab") as file:
                file.write(folder.encode() + name.encode())
    for folder in ("1", "2"):
        for path in (tmp_path / folder).rglob("*.[jJ]*"):
            with path.open("ab") as file:
                file.write(folder.encode())
    shutil.copy(tmp_path / "1/x/s.jpg", tmp_path / "2/z.jpg")
    there, back = leakage(first, second)
    assert {mark: len(lines) for mark, lines in there.found.items()} == {
        "path": 1,  # q, whatever the case of its suffix
        "name": 2,  # q, r; 7 is digits alone and tells nothing
        "content": 1,  # s
    }
    assert (there.leaked, there.tested, there.unread) == (3, 4, 0)
    assert (back.leaked, back.tested) == (0, 1)
    assert "3 of 4" in str(there)
    (tmp_path / "1/x/q.jpg").unlink()
    assert leakage(first, second)[0].unread == 1
    with pytest.raises(UserError, match="no test split"):
        leakage(first, replace(second, test_csv=None))


# ---------------------------------------------------------------------------- published labels


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataSpec]:
    """The released label files, with a tiny image for every row."""
    root = tmp_path_factory.mktemp("published")
    for name, files in {
        "icaa17k": ("1all.csv", "1train.csv", "1test.csv"),
        "spaq": ("spaqTrain.csv", "spaqTest.csv"),
    }.items():
        (root / name).mkdir()
        names = []
        for file in files:
            shutil.copyfile(shared / "data" / name / file, root / name / file)
            rows = (root / name / file).read_text(encoding="utf-8").splitlines()[1:]
            names += [row.split(",")[0] for row in rows]
        write_jpegs(root / name, sorted(set(names)))
    return {name: DataSpec(name, root / name) for name in ("icaa17k", "spaq")}


def table(report: object) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in str(report).splitlines()[1:4]}


def test_icaa17k_labels_pass_with_the_published_numbers(published: dict[str, DataSpec]) -> None:
    report = verify(published["icaa17k"])
    assert report.ok, str(report)
    rows = table(report)
    assert rows["train"][0] == "15,734"
    assert rows["test"][0] == "1,617"
    assert rows["test"][5] == "92.6%"
    assert rows["all"] == ["17,351", "30", "2.98", "5.95", "9.12", "92.3%", "0.42"]
    assert report.notes == [
        "749 of 1,617 test images have a namesake with the same scores in the train split, in "
        "another folder: presumably the same photographs"
    ]


def test_spaq_labels_pass_with_the_published_numbers(published: dict[str, DataSpec]) -> None:
    report = verify(published["spaq"])
    assert report.ok, str(report)
    rows = table(report)
    assert (rows["train"][0], rows["test"][0], rows["all"][0]) == ("10,000", "1,125", "11,125")
    assert rows["test"][5] == "76.2%"


def test_a_lost_row_is_missed(published: dict[str, DataSpec]) -> None:
    path = published["icaa17k"].data_root / "1test.csv"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    lost = next(i for i, line in enumerate(lines) if line.startswith(b"monochromatic/red/"))
    path.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
    text = str(verify(published["icaa17k"]))
    path.write_bytes(whole)
    assert "test: 1,616 rows, published are 1,617" in text
    assert "monochromatic/red: 1086 rows, published are 1087" in text
    assert "2 problems" in text
