"""`dataset.py stats` on ICAA17K's own tables, and on small sets with images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from pictures import photo
from PIL import Image
from scipy import stats

import dataset
from errors import run_cli


def command(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dataset.py", "stats", *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        run_cli(dataset.main)
    return end.value.code


def read(folder: Path) -> tuple[dict, pd.DataFrame]:
    table = pd.read_csv(folder / "images.csv")
    return json.loads((folder / "stats.json").read_text()), table


def pictures(folder: Path) -> set[str]:
    """Names of the PNGs, each of which decodes and shows something."""
    drawn = {path.name: imread(path) for path in folder.glob("*.png")}
    assert all(np.ptp(image) > 0.5 for image in drawn.values())
    return set(drawn)


def test_icaa17k_from_its_tables_alone(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = shared / "data/icaa17k"
    assert command(monkeypatch, "icaa17k", "--data-root", root, "--out", tmp_path / "out") == 0
    summary, table = read(tmp_path / "out")
    counts = {name: n["all"] for name, n in summary["color_types"]["type_by_folder"].items()}
    published = {"darkyellow": 1189, "orange": 1088, "red": 1087, "darkorange": 994}
    for name, count in published.items():
        assert counts.pop(f"monochromatic/{name}") == count
    assert len(counts) == 26
    assert set(counts.values()) == {499, 500}
    assert summary["images"] == {"train": 15_734, "test": 1_617}
    assert summary["relation"]["scores"] == ["MOS", "color"]
    assert summary["relation"]["srcc"] == pytest.approx(0.42, abs=0.005)
    color = summary["labels"]["color"]
    assert (color["min"], color["max"]) == pytest.approx((2.98, 9.12), abs=0.005)
    assert sum(color["counts"]["test"]) == 1_617
    everything = pd.read_csv(root / "1all.csv")
    assert sorted(table["color"]) == pytest.approx(sorted(everything["color"]))
    assert pictures(tmp_path / "out") == {"labels.png", "relation.png", "color_types.png"}
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("monochromatic/darkyellow"))
    assert row.split()[1:4] == ["1,081", "108", "1,189"]
    assert "17,351 of 17,351 images are not there" in out


def test_spaq_shows_mos_beside_colorfulness(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared / "data/spaq"
    assert command(monkeypatch, "spaq", "--data-root", root, "--out", tmp_path / "out") == 0
    summary, _ = read(tmp_path / "out")
    rows = pd.concat(pd.read_csv(root / f"spaq{split}.csv") for split in ("Train", "Test"))
    expected = stats.spearmanr(rows["MOS"], rows["Colorfulness"]).statistic
    assert summary["relation"]["srcc"] == pytest.approx(expected)
    assert pictures(tmp_path / "out") == {"labels.png", "relation.png"}


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    """ICAA17K's layout: red, blue and again red images; one broken, one absent."""
    names = ["red/a", "red/b", "blue/c", "blue/broken", "blue/absent"]
    for number, name in enumerate(names[:3]):
        path = tmp_path / f"monochromatic/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (0, 60, 220) if name == "red/b" else (200, 10 * number, 0)
        Image.new("RGB", (20, 10), color).save(path)
    (tmp_path / "monochromatic/blue/broken.png").write_bytes(b"no image")
    rows = [f"monochromatic/{name}.png,{5 + i},{4 + i / 2},.7" for i, name in enumerate(names)]
    for split, chosen in (("train", rows[:4]), ("test", rows[4:])):
        lines = "\n".join(["ID,color,MOS,probability", *chosen])
        (tmp_path / f"1{split}.csv").write_text(lines + "\n")
    return tmp_path


def test_images_are_measured_as_far_as_they_are_there(
    filed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "icaa17k", "--data-root", filed, "--out", filed / "out") == 0
    summary, table = read(filed / "out")
    assert table["type_by_rule"].tolist()[:3] == [
        "monochromatic/red",
        "monochromatic/blue",
        "monochromatic/red",
    ]
    assert table["type_by_rule"].isna().tolist() == [False, False, False, True, True]
    assert table["template"].tolist()[:3] == ["i", "i", "i"]
    assert summary["color_types"]["agreement"] == {"images": 3, "share": pytest.approx(1 / 3)}
    assert (summary["missing"], len(summary["broken"])) == (1, 1)
    measured = table.dropna(subset="colorfulness")
    expected = stats.pearsonr(measured["color"], measured["colorfulness"]).statistic
    assert summary["measures"]["colorfulness"]["plcc"] == pytest.approx(expected)
    assert summary["measures"]["harmony"]["mean"] == 0
    assert summary["measures"]["harmony"]["srcc"] is None  # constant
    assert len(pictures(filed / "out")) == 4
    out = capsys.readouterr().out
    assert "the same type for 33.3% of 3 images" in out
    assert "1 of 5 images are not there" in out
    assert "broken.png: not an image" in out


def test_a_csv_of_ones_own_has_types_by_rule_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["file,beauty"]
    for i in range(6):
        photo(i).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{1 + i}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    flags = ["csv", "--train-csv", tmp_path / "all.csv", "--score-columns", "beauty"]
    flags += ["--score-range", "1,7", "--out", tmp_path / "out"]
    assert command(monkeypatch, *flags) == 0
    summary, _ = read(tmp_path / "out")
    assert list(summary["color_types"]) == ["type_by_rule"]
    assert sum(n["all"] for n in summary["color_types"]["type_by_rule"].values()) == 6
    assert summary["labels"]["beauty"]["std"] == pytest.approx(np.std(range(6), ddof=1))
    assert pictures(tmp_path / "out") == {"labels.png", "color_types.png", "measures.png"}
    assert "there is only one" in capsys.readouterr().out


def test_ava_is_shown_by_its_mean_rating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = [[0] * 4 + [3, 0, 1] + [0] * 3, [1] * 10]
    lines = [f"{i} {100 + i} {' '.join(map(str, v))} 0 0 9" for i, v in enumerate(votes)]
    (tmp_path / "AVA.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.jpgl").write_text("101\n")
    flags = ["ava", "--data-root", tmp_path, "--test-list", tmp_path / "test.jpgl"]
    assert command(monkeypatch, *flags, "--out", tmp_path / "out") == 0
    _, table = read(tmp_path / "out")
    assert table["rating"].tolist() == pytest.approx([5.5, 5.5])
    assert table["split"].tolist() == ["train", "test"]


def test_bad_input_is_one_line(
    filed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = filed / "1train.csv"
    assert command(monkeypatch, "icaa17k", "--data-root", filed, "--out", file) == 2
    assert "is a file: give a folder" in capsys.readouterr().err
    assert command(monkeypatch, "icaa17k", "--data-root", filed / "nowhere") == 2
