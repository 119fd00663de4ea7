"""Colorfulness by hand, and the classical baselines in results and tables."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tiny import write_tiny_dataset

from color_measures import colorfulness, measure_baselines, small_pixels
from config_layers import resolve_config
from results import Scored, format_repeats, format_table
from setting import build_splits
from train_nni import main


def test_colorfulness_by_hand() -> None:
    """Red and green: rg = ±255 (σ 255, μ 0), yb = 127.5 twice (σ 0, μ 127.5)."""
    pixels = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    assert colorfulness(pixels) == pytest.approx(255 + 0.3 * 127.5)
    assert colorfulness(np.full((3, 4, 3), 77, np.uint8)) == 0


def test_colorfulness_equals_the_definition() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    colors = pixels.reshape(-1, 3).tolist()
    rg = [r - g for r, g, _ in colors]
    yb = [0.5 * (r + g) - b for r, g, b in colors]
    spread = (statistics.pvariance(rg) + statistics.pvariance(yb)) ** 0.5
    mean = (statistics.mean(rg) ** 2 + statistics.mean(yb) ** 2) ** 0.5
    assert colorfulness(pixels) == pytest.approx(spread + 0.3 * mean)


def test_large_photographs_are_measured_small(tmp_path: Path) -> None:
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:, 300:] = (200, 40, 0)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    small = small_pixels(tmp_path / "large.png")
    assert small.shape == (128, 256, 3)
    assert colorfulness(small) == pytest.approx(colorfulness(pixels), rel=1e-6)
    Image.fromarray(pixels[:5, 298:302]).save(tmp_path / "small.png")
    np.testing.assert_array_equal(small_pixels(tmp_path / "small.png"), pixels[:5, 298:302])


def scored() -> Scored:
    label = np.array([[4.0], [6.0], [7.0], [8.0]])
    baselines = {"harmony": np.array([-3.0, -1.0, -2.0, 0.0]), "colorfulness": np.full(4, 7.0)}
    return Scored(("a", "b", "c", "d"), ("color",), label, label, 5.0, (0.0, 10.0), baselines)


def test_baselines_stand_in_the_table_with_srcc_and_plcc_alone() -> None:
    part = scored()
    summary = part.summary(samples=20, seed=0)
    harmony = summary["baselines"]["harmony"]
    assert set(harmony) == {"srcc", "plcc"}
    expected = stats.spearmanr(part.label[:, 0], part.baselines["harmony"]).statistic
    assert harmony["srcc"]["value"] == pytest.approx(expected)
    low, high = harmony["srcc"]["interval"]
    assert low <= expected <= high
    val = {"images": 4, "targets": summary["targets"]}  # a split without baselines
    table = format_table({"val": val, "test": summary}, target="color").splitlines()
    of_harmony = next(line for line in table if line.startswith("SRCC of harmony"))
    assert of_harmony.split()[3] == "0.800"  # in the column of test; that of val is empty
    assert of_harmony.index("0.800") == table[0].index("test")
    assert any("PLCC of colorfulness" in line and "undefined" in line for line in table)


def test_baselines_are_repeated_over_seeds() -> None:
    repeats = [{"test": scored().summary(samples=0, seed=0)}] * 2
    lines = format_repeats(repeats, target="color").splitlines()
    assert any(line.split() == ["SRCC", "of", "harmony", "0.8000", "±", "0.0000"] for line in lines)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*write_tiny_dataset(tmp_path_factory.mktemp("tiny data")), "--epochs", "1"]


def test_a_run_reports_them_on_its_test_split(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--output", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    test = build_splits(resolve_config(flags, {}))["test"]
    values = measure_baselines(test)["colorfulness"]
    pixels = np.asarray(Image.open(test.paths[2]).convert("RGB"))
    assert values[2] == pytest.approx(colorfulness(pixels))
    found = metrics["test"]["baselines"]["colorfulness"]["plcc"]["value"]
    assert found == pytest.approx(stats.pearsonr(values, test.rating).statistic)
    assert "baselines" not in metrics["val"]
    assert "SRCC of colorfulness" in capsys.readouterr().out


@pytest.mark.parametrize("without", ["--no-baselines", "--no-score-test"])
def test_a_run_can_do_without(flags: list[str], tmp_path: Path, without: str) -> None:
    assert main([*flags, without, "--output", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert not any("baselines" in metrics.get(split, {}) for split in ("val", "test"))
