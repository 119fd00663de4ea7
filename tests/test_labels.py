"""Reading every data set's labels, and the message for everything that can be wrong in them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import write_jpegs

from errors import UserError
from labels import DataSpec, drop_broken, load_splits, split_by_score

ROWS = {"train": ["a b.jpg,2,3", "b.jpg,4,5", "c@1.jpg,6,7"], "test": ["d.jpg,1,7", "ü.jpg,7,1"]}


@pytest.fixture
def own(tmp_path: Path) -> DataSpec:
    """A sound csv data set: columns file, quality, beauty; ratings 1..7."""
    for split, rows in ROWS.items():
        write_table(tmp_path / f"{split}.csv", "file,quality,beauty", rows)
        write_jpegs(tmp_path / "images", [row.split(",")[0] for row in rows])
    return DataSpec(
        "csv",
        tmp_path,
        train_csv=Path("train.csv"),
        test_csv=Path("test.csv"),
        score_columns=("quality", "beauty"),
        score_range=(1, 7),
    )


def write_table(path: Path, head: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def message(spec: DataSpec) -> str:
    with pytest.raises(UserError) as caught:
        load_splits(spec)
    return str(caught.value)


# ---------------------------------------------------------------------------- what is read


def test_csv_scores_units_and_places(own: DataSpec) -> None:
    splits = load_splits(own)
    train = splits["train"]
    assert train.ids == ["a b.jpg", "b.jpg", "c@1.jpg"]
    assert train.paths[0] == own.data_root / "images" / "a b.jpg"
    assert train.rating.tolist() == [3, 5, 7]  # beauty, the last target, is reported
    np.testing.assert_allclose(train.unit_scores[0], [1 / 6, 2 / 6])
    assert train.unit_scores.dtype == np.float32
    assert train.threshold == 4
    assert train.rows == [2, 3, 4]
    assert splits["test"].ids == ["d.jpg", "ü.jpg"]
    assert set(load_splits(replace(own, test_csv=None))) == {"train"}


def test_csv_options(own: DataSpec) -> None:
    table = own.data_root / "other.csv"
    write_table(table, "score,where", ["6,b.jpg"])
    spec = replace(own, train_csv=table, image_column="where", score_columns=("score",))
    spec = replace(spec, image_root=own.data_root / "images", threshold=2.5)
    train = load_splits(replace(spec, test_csv=None))["train"]
    assert (train.ids, train.rating.tolist(), train.threshold) == (["b.jpg"], [6], 2.5)


def test_tables_with_byte_order_mark_blank_lines_and_quotes(own: DataSpec) -> None:
    lines = '﻿file, quality ,beauty\r\n\r\n"a b.jpg",2,3\r\n\r\nb.jpg,4,5\r\n\r\n'
    (own.data_root / "train.csv").write_text(lines, encoding="utf-8", newline="")
    train = load_splits(own)["train"]
    assert (train.ids, train.rows) == (["a b.jpg", "b.jpg"], [3, 5])


@pytest.mark.parametrize("folder", ["", "ICAA17K"])
def test_icaa17k_in_the_root_or_one_folder_below(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    for split, name in (
        ("train", "monochromatic/red/1@2.jpg"),
        ("test", "monochromatic/red/3.jpg"),
    ):
        write_table(root / f"1{split}.csv", "ID,color,MOS,probability", [f"{name},6,4,.7"])
        write_jpegs(root / "images", [name])
    train = load_splits(DataSpec("icaa17k", tmp_path))["train"]
    assert train.targets == ("MOS", "color")
    assert (train.scores.tolist(), train.rating.tolist()) == ([[4, 6]], [6])
    np.testing.assert_allclose(train.unit_scores, [[0.4, 0.6]])
    assert train.threshold == 5
    one = load_splits(DataSpec("icaa17k", tmp_path, targets=("color",)))["train"]
    assert one.scores.tolist() == [[6]]


SPAQ_HEAD = "MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness"


def test_spaq_as_released(tmp_path: Path) -> None:
    write_table(tmp_path / "spaqTrain.csv", f"image_id,{SPAQ_HEAD}", ["00001.jpg,1,2,5.5,4,5,6"])
    write_table(tmp_path / "spaqTest.csv", f"image_id,{SPAQ_HEAD}", ["10001.jpg,1,2,6.5,4,5,6"])
    write_jpegs(tmp_path / "TestImage", ["00001.jpg", "10001.jpg"])
    splits = load_splits(DataSpec("spaq", tmp_path))
    assert splits["train"].targets == ("Colorfulness",)
    assert splits["train"].rating.tolist() == [5.5]
    assert splits["test"].rating.tolist() == [6.5]


@pytest.mark.parametrize(("folder", "suffix"), [("Annotations", "xlsx"), ("annotations", "csv")])
def test_spaq_as_in_the_official_archive(tmp_path: Path, folder: str, suffix: str) -> None:
    names = ["00001.jpg", "10000.jpg", "10001.jpg"]
    table = pd.DataFrame({"Image name": names, "MOS": 50, "Colorfulness": [55.5, 60, 70]})
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / f"MOS and Image attribute scores.{suffix}"
    table.to_excel(path, index=False) if suffix == "xlsx" else table.to_csv(path, index=False)
    write_jpegs(tmp_path / "TestImage", names)
    splits = load_splits(DataSpec("spaq", tmp_path))
    assert splits["train"].ids == names[:2]
    np.testing.assert_allclose(splits["train"].rating, [5.55, 6])
    assert (splits["test"].rows, splits["test"].rating.tolist()) == ([4], [7])


def test_spaq_pickles_are_refused(tmp_path: Path) -> None:
    for split, name in (("Train", "00001.jpg"), ("Test", "10001.jpg")):
        write_table(tmp_path / f"spaq{split}.csv", f"image_id,{SPAQ_HEAD}", [f"{name},1,2,3,4,5,6"])
    (tmp_path / "00001.jpg.pkl").write_bytes(b"\x80\x04.")
    assert "a pickle can run code" in message(DataSpec("spaq", tmp_path))


def write_ava(root: Path, count: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = [f"{i} {100 + i} 0 0 0 {i} 0 0 0 0 0 1 0 0 7" for i in range(1, count + 1)]
    (root / "AVA.txt").write_text("\n".join(lines) + "\n")
    write_jpegs(root / "images", [f"{100 + i}.jpg" for i in range(1, count + 1)])


def test_ava_with_the_official_test_list(tmp_path: Path) -> None:
    write_ava(tmp_path, 4)
    folder = tmp_path / "aesthetics_image_lists"
    folder.mkdir()
    (folder / "generic_test.jpgl").write_text("102\n999\n104\n")
    splits = load_splits(DataSpec("ava", tmp_path))
    assert splits["train"].ids == ["101.jpg", "103.jpg"]
    assert splits["test"].ids == ["102.jpg", "104.jpg"]
    assert splits["test"].targets == tuple(str(rating) for rating in range(1, 11))
    np.testing.assert_allclose(splits["test"].scores[0], [0, 0, 0, 2 / 3, 0, 0, 0, 0, 0, 1 / 3])
    np.testing.assert_allclose(splits["test"].rating, [(2 * 4 + 10) / 3, (4 * 4 + 10) / 5])
    np.testing.assert_allclose(splits["test"].unit_scores, splits["test"].scores)
    (tmp_path / "mine.txt").write_text("101\n")
    mine = load_splits(DataSpec("ava", tmp_path, test_list=tmp_path / "mine.txt"))
    assert mine["test"].ids == ["101.jpg"]


def test_ava_without_a_test_list_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ava(tmp_path, 200)
    first, second = (load_splits(DataSpec("ava", tmp_path)) for _ in range(2))
    assert "not the official one" in caplog.text
    assert first["test"].ids == second["test"].ids
    assert 5 < len(first["test"]) < 30
    assert len(first["train"]) + len(first["test"]) == 200


# ---------------------------------------------------------------------------- what is refused


def test_missing_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    for name, way in (("icaa17k", "18PDtXiQNqHe8NUFK9jpuAjBp2MxRjRGM"), ("spaq", "zip -FF")):
        text = message(DataSpec(name, tmp_path / "absent"))
        assert str(tmp_path / "absent") in text
        assert way in text
        assert way in message(DataSpec(name, tmp_path))  # there, but empty


def test_unknown_names_and_options_of_other_data_sets(own: DataSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'aadb'; known are icaa17k"):
        DataSpec("aadb", tmp_path)
    with pytest.raises(UserError, match="--score-range is for csv only, not for spaq"):
        DataSpec("spaq", tmp_path, score_range=(0, 10))
    with pytest.raises(UserError, match="--targets is for icaa17k, sample, spaq only"):
        replace(own, targets=("beauty",))
    with pytest.raises(UserError, match="low end"):
        replace(own, score_range=(7, 1))
    for missing in ({"score_columns": ()}, {"score_range": None}):
        assert "--score-columns (e.g. beauty) and --score-range" in message(replace(own, **missing))
    assert "--train-csv" in message(replace(own, train_csv=None))


def test_missing_column_lists_those_there(own: DataSpec) -> None:
    text = message(replace(own, score_columns=("quality", "charm")))
    assert "no column 'charm'; its columns are 'file', 'quality', 'beauty'" in text
    assert "no column 'photo'" in message(replace(own, image_column="photo"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("file,quality,beauty\n", "has no rows"),
        ("file,quality,beauty\n\n\n", "has no rows"),
        ("\xff\xfe\x00", "cannot be read"),
    ],
)
def test_empty_and_unreadable_tables(own: DataSpec, content: str, reason: str) -> None:
    path = own.data_root / "train.csv"
    path.write_bytes(content.encode("latin-1"))
    assert reason in message(own)
    assert str(path) in message(own)


def test_a_table_that_is_not_there(own: DataSpec) -> None:
    assert "nowhere.csv: there is no such file" in message(
        replace(own, train_csv=Path("nowhere.csv"))
    )


@pytest.mark.parametrize("cell", ["", "nan", "inf", "abc", "0.99", "7.01", "5,5"])
def test_score_that_is_no_number_in_range(own: DataSpec, cell: str) -> None:
    quoted = f'"{cell}"' if "," in cell else cell
    rows = [ROWS["train"][0], f"b.jpg,4,{quoted}", "c@1.jpg,6,9"]
    write_table(own.data_root / "train.csv", "file,quality,beauty", rows)
    text = message(own)
    assert f"train.csv, row 3: beauty is {cell!r}, not in 1..7" in text
    assert "(2 such rows, 1 problems more" in text


def test_ava_row_without_votes(tmp_path: Path) -> None:
    write_ava(tmp_path, 3)
    text = (
        (tmp_path / "AVA.txt").read_text().replace("2 102 0 0 0 2 0 0 0 0 0 1", "2 102" + " 0" * 10)
    )
    (tmp_path / "AVA.txt").write_text(text)
    assert "AVA.txt, row 2: no votes" in message(DataSpec("ava", tmp_path))


def test_image_twice_in_a_split_or_in_both(own: DataSpec) -> None:
    rows = [*ROWS["train"], "./b.jpg,1,1"]
    write_table(own.data_root / "train.csv", "file,quality,beauty", rows)
    assert "row 5 (./b.jpg) repeats row 3" in message(own)
    rows = [*ROWS["train"], "d.jpg,1,1"]
    write_table(own.data_root / "train.csv", "file,quality,beauty", rows)
    text = message(own)
    assert "test.csv, row 2 (d.jpg) is also in the train split" in text
    assert "train.csv, row 5" in text


def test_missing_image_is_named_with_its_row(own: DataSpec) -> None:
    (own.data_root / "images" / "b.jpg").unlink()
    text = message(own)
    assert "train.csv, row 3 (b.jpg): no image file" in text
    assert "--skip-broken" in text
    assert len(load_splits(replace(own, require_images=False))["train"]) == 3


def test_drop_broken_lists_what_it_leaves_out(own: DataSpec) -> None:
    folder = own.data_root / "images"
    (folder / "a b.jpg").write_bytes((folder / "a b.jpg").read_bytes()[:200])
    (folder / "b.jpg").unlink()
    train = load_splits(replace(own, require_images=False))["train"]
    kept, broken = drop_broken(train, workers=2)
    assert (kept.ids, kept.rating.tolist(), kept.rows) == (["c@1.jpg"], [7], [4])
    assert [image.path.name for image in broken] == ["a b.jpg", "b.jpg"]
    assert "row 2 (a b.jpg)" in broken[0].where
    assert "no such file" in broken[1].reason
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no image can be used"):
        drop_broken(train)


# ---------------------------------------------------------------------------- splitting


def many(own: DataSpec, count: int) -> DataSpec:
    rows = [f"{i}.jpg,1,{1 + 6 * i / count:.3f}" for i in range(count)]
    np.random.default_rng(0).shuffle(rows)
    write_table(own.data_root / "train.csv", "file,quality,beauty", rows)
    return replace(own, require_images=False)


def test_split_is_stratified_seeded_and_complete(own: DataSpec) -> None:
    train = load_splits(many(own, 200))["train"]
    rest, held = split_by_score(train, 0.1, seed=0)
    assert (len(rest), len(held), held.split) == (180, 20, "val")
    assert sorted(rest.ids + held.ids) == sorted(train.ids)
    # One of each run of ten neighbouring ratings, so never further than one run from even.
    np.testing.assert_allclose(np.sort(held.rating), np.linspace(1.15, 6.85, 20), atol=0.3)
    assert held.ids == split_by_score(train, 0.1, seed=0)[1].ids
    assert held.ids != split_by_score(train, 0.1, seed=1)[1].ids
    for i, name in enumerate(held.ids):  # every field moved along
        j = train.ids.index(name)
        assert held.paths[i] == train.paths[j]
        assert held.rows[i] == train.rows[j]
        np.testing.assert_array_equal(held.scores[i], train.scores[j])


def test_split_keeps_one_photograph_together(own: DataSpec) -> None:
    rows = [f"{folder}/{i}.jpg,1,{1 + i / 20}" for i in range(100) for folder in ("red", "blue")]
    write_table(own.data_root / "train.csv", "file,quality,beauty", rows)
    train = load_splits(replace(own, require_images=False))["train"]
    rest, held = split_by_score(train, 0.2, seed=0)
    assert len(held) == 40
    assert not {path.name for path in rest.paths} & {path.name for path in held.paths}


def test_split_that_leaves_a_part_empty(own: DataSpec) -> None:
    train = load_splits(own)["train"]
    for share in (0.01, 0.99):
        with pytest.raises(UserError, match="leaves one part empty"):
            split_by_score(train, share, seed=0)
