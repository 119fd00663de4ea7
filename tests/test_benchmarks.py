"""What the benchmarks work out from their figures; nothing is timed here."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from benchmarks import matmul_speed, run
from benchmarks.gpu_speed import fitting_batch
from benchmarks.growth import dominance, draw, exponents, points_terms, result_of
from benchmarks.growth_sweeps import Curve, over_photographs, write_photographs
from benchmarks.measuring import Result, Row, format_table, seconds_in_turn
from benchmarks.scaling_laws import PowerLaw, TwoTerms, count, counted_terms, unit
from errors import UserError
from models import build_model, count_flops
from models.options import ARCHITECTURES


def write(folder: Path, benchmark: str, ratios: dict[str, float], device: str = "cpu") -> None:
    folder.mkdir(exist_ok=True)
    row = Row.of("step", "s", [3.0, 1.0, 2.0, 5.0, 4.0])
    Result(benchmark, device, [row], ratios).save(folder / f"{benchmark}.json")


def test_row_by_hand_and_json_round_trip(tmp_path: Path) -> None:
    row = Row.of("step", "s", [3.0, 1.0, 2.0, 10.0])
    assert row == Row("step", "s", 2.5, 1.0, 10.0, 4)
    result = Result("b", "cuda", [row], {"plain / ours": 2.0})
    result.save(tmp_path / "b.json")
    assert Result.load(tmp_path / "b.json") == result
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["median"] == 2.5
    assert re.search(r"step +2\.5 +1 +10 +4  s\n", format_table(result) + "\n")
    (tmp_path / "c.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match=r"c\.json: not the figures of a benchmark"):
        Result.load(tmp_path / "c.json")


def test_repeats_take_turns() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = seconds_in_turn(ways, 3)
    assert calls == list("ab" * 4)  # once to warm up
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_matrix_products_of_a_network_by_hand() -> None:
    counts = matmul_speed.shapes("delegate_nano", batch=2)
    dims, sides = (24, 48, 96, 192), (32, 16, 8, 4)
    expected: Counter[tuple[int, int, int]] = Counter()
    for stage, (dim, side) in enumerate(zip(dims, sides, strict=True)):
        tokens = 2 * side**2
        shares = ((3 * dim, 1), (dim, 1)) if stage < 2 else ((3 * dim, 0.5), (dim, 2.5))
        layers = ARCHITECTURES["delegate_nano"].depths[stage]
        for width, share in shares:
            expected[tokens, dim, width] += int(share * layers)
        expected[tokens, dim, 4 * dim] += layers
        expected[tokens, 4 * dim, dim] += layers
    assert counts == expected
    results = {key: run_it() for key, run_it in matmul_speed.products((6, 4, 3)).items()}
    for (product, _), result in results.items():
        torch.testing.assert_close(result, results[product, "MKL"])
    result, of_input, (of_weight, of_bias) = (
        results[product, "MKL"] for product in dict.fromkeys(product for product, _ in results)
    )
    shapes = [tuple(t.shape) for t in (result, of_input, of_weight, of_bias)]
    assert shapes == [(6, 3), (6, 4), (3, 4), (3,)]


@pytest.mark.parametrize(("room", "batch"), [(16, 16), (15, 8), (3, 2), (1, 1)])
def test_batch_that_memory_allows(room: int, batch: int) -> None:
    def step(images: torch.Tensor) -> None:
        if len(images) > room:
            raise torch.OutOfMemoryError("as a GPU would")

    assert fitting_batch(step, torch.zeros(16, 1)) == batch
    with pytest.raises(torch.OutOfMemoryError):
        fitting_batch(lambda images: step(torch.zeros(room + 1)), torch.zeros(16, 1))


def test_record_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, recorded = tmp_path / "figures", tmp_path / "recorded.json"
    here = ["--from", str(figures), "--recorded", str(recorded)]
    write(figures, "model_speed", {"forward": 1.5, "training": 2.0})
    write(figures, "growth", {"batch": 3.0}, device="cuda")
    assert run.main([*here, "--check"]) == 0  # nothing is recorded yet
    assert "3 ratios have no record" in capsys.readouterr().out
    assert run.main([*here, "--record"]) == 0
    assert json.loads(recorded.read_text()) == {
        "cpu": {"model_speed": {"forward": 1.5, "training": 2.0}},
        "cuda": {"growth": {"batch": 3.0}},
    }

    write(figures, "model_speed", {"forward": 1.36, "training": 2.3})  # −9 %, +15 %
    assert run.main([*here, "--check"]) == 0
    write(figures, "model_speed", {"forward": 1.34, "training": 2.3})  # −11 %
    assert run.main([*here]) == 0
    assert run.main([*here, "--check"]) == 1
    output = capsys.readouterr().out
    assert "regressed by more than 10%: model_speed, forward" in output
    assert "not run: loader_speed" in output
    write(figures, "model_speed", {"forward": math.nan, "training": 2.3})
    assert run.main([*here, "--check"]) == 1

    write(figures, "model_speed", {"forward": 1.0, "training": 2.3}, device="cuda")
    assert run.main([*here, "--check"]) == 0  # no GPU's ratios are recorded
    assert run.main([*here, "--only", "model_speed", "--record"]) == 0
    kept = json.loads(recorded.read_text())
    assert kept["cpu"]["model_speed"]["forward"] == 1.5
    assert kept["cuda"] == {
        "growth": {"batch": 3.0},
        "model_speed": {"forward": 1, "training": 2.3},
    }


def test_a_recorded_ratio_that_is_gone_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, recorded = tmp_path / "figures", tmp_path / "recorded.json"
    here = ["--from", str(figures), "--recorded", str(recorded)]
    write(figures, "model_speed", {"forward": 1.5, "training": 2.0})
    run.main([*here, "--record"])
    write(figures, "model_speed", {"forward": 1.5})
    assert run.main([*here, "--check"]) == 1
    assert "recorded, but not measured: model_speed, training" in capsys.readouterr().out


def test_a_regression_counts_when_it_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, recorded = tmp_path / "figures", tmp_path / "recorded.json"
    here = ["--recorded", str(recorded)]
    write(figures, "model_speed", {"forward": 1.5, "training": 2.0})
    run.main([*here, "--from", str(figures), "--record"])
    rounds = iter(
        [
            {"forward": 1.0, "training": 2.0},
            {"forward": 1.4, "training": 1.0},  # each slow once
            {"forward": math.nan, "training": 2.0},
            {"forward": 1.3, "training": 2.0},  # slow twice
        ]
    )
    ran = []

    def fake_run(names: list[str], images: Path | None, folder: Path) -> tuple[list, dict]:
        ran.append(names)
        row = Row.of(f"round {len(ran)}", "s", [1.0])
        return [Result("model_speed", "cpu", [row], next(rounds))], {}

    monkeypatch.setattr(run, "run", fake_run)
    here += ["--only", "model_speed"]
    assert run.main([*here, "--check"]) == 0
    assert ran == [["model_speed"]] * 2
    output = capsys.readouterr().out  # the figures behind each ratio
    assert re.search(r"round 1 +1 ", output)
    assert re.search(r"round 2, again +1 ", output)
    assert run.main([*here, "--check"]) == 1
    assert "regressed by more than 10%: model_speed, forward" in capsys.readouterr().out


def test_broken_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--from .*: there is none of growth\.json"):
        run.main(["--from", str(tmp_path), "--only", "growth"])
    write(tmp_path, "growth", {"x": 1.0})
    (tmp_path / "recorded.json").write_text("{")
    with pytest.raises(UserError, match=r"recorded\.json: not JSON"):
        run.main(["--from", str(tmp_path), "--recorded", str(tmp_path / "recorded.json")])


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: False)
    reasons = {name: run.why_not(this, None) for name, this in run.BENCHMARKS.items()}
    assert reasons["gpu_speed"] == "no GPU"
    assert reasons["predict_speed"] == "no photographs: --images FOLDER"
    assert reasons["growth"] is None
    assert run.why_not(run.BENCHMARKS["predict_speed"], Path("photos")) is None
    missing = [name for name in run.BENCHMARKS if not (ROOT / f"benchmarks/{name}.py").is_file()]
    assert missing == []


def test_a_benchmark_is_run_and_one_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (
        "import sys, json; json.dump({'benchmark': 'good', 'device': 'cpu', 'rows': [],"
        " 'ratios': {'r': float(sys.argv[1])}}, open(sys.argv[3], 'w'))"
    )
    (tmp_path / "good.py").write_text(good)
    (tmp_path / "bad.py").write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(
        run, "BENCHMARKS", {"good": run.Benchmark(("2.5",)), "bad": run.Benchmark()}
    )
    recorded = ["--recorded", str(tmp_path / "recorded.json")]
    assert (
        run.main(["--only", "good", "--record", "--keep", str(tmp_path / "kept"), *recorded]) == 0
    )
    assert json.loads((tmp_path / "recorded.json").read_text())["cpu"]["good"] == {"r": 2.5}
    assert (tmp_path / "kept" / "good.json").is_file()
    assert run.main(["--only", "good", "bad", *recorded]) == 1
    assert "not run: bad (failed: no such thing)" in capsys.readouterr().out


def test_exponent_of_a_known_power_law() -> None:
    x = np.array([1.0, 2, 5, 10, 20])
    law = PowerLaw.fit(x, 3 * x**1.7)
    assert law.exponent == pytest.approx(1.7)
    assert law.factor == pytest.approx(3)
    assert law.interval == pytest.approx((1.7, 1.7), abs=1e-6)
    np.testing.assert_allclose(law(x), 3 * x**1.7)
    two = PowerLaw.fit([1, 4], [2, 4])
    assert two.exponent == pytest.approx(0.5)
    assert all(math.isnan(end) for end in two.interval)


def test_interval_holds_the_exponent_95_times_of_100() -> None:
    """The share of 400 noisy fits whose interval holds the true exponent."""
    rng, x = np.random.default_rng(0), np.geomspace(1, 100, 6)
    held = 0
    for _ in range(400):
        low, high = PowerLaw.fit(x, 2 * x**1.3 * np.exp(rng.normal(0, 0.2, 6))).interval
        held += low < 1.3 < high
    assert 0.92 < held / 400 < 0.98


def test_two_terms_of_a_known_sum() -> None:
    """2 n + 0.001 n² for n = side²: the second is larger from n = 2000 on."""
    sides = [16, 32, 64, 128]
    n = np.square(sides)
    terms = TwoTerms.fit(sides, 2.0 * n + 0.001 * n**2)
    assert (terms.linear, terms.square) == pytest.approx((2, 0.001))
    assert terms.crossing == pytest.approx(math.sqrt(2000))
    assert terms.square_share(math.sqrt(2000)) == pytest.approx(0.5)
    assert terms.square_share(100) == pytest.approx(10_000 / 12_000)
    assert TwoTerms.fit(sides, 2.0 * n).crossing == math.inf


@pytest.mark.parametrize(("name", "size"), [("delegate_nano", 256), ("delegate_base", 224)])
def test_attention_over_points_by_formula(name: str, size: int) -> None:
    """4 · N² · C for each delegate layer of N positions and C channels: every second layer of
    stages 3 and 4."""
    net, flops = ARCHITECTURES[name], count(name, size)
    expected = sum(
        net.depths[stage] // 2 * 4 * (size // stride) ** 4 * net.dims[stage]
        for stage, stride in ((2, 16), (3, 32))
    )
    assert flops.over_points == expected
    # What the two-term law takes for it, from totals alone, is the same.
    assert counted_terms(name).square_share(size) == pytest.approx(flops.share, rel=0.01)
    assert size % unit(name) == 0


def test_all_operations_are_counted() -> None:
    assert count("delegate_base", 224).total == pytest.approx(31.45e9, rel=1e-3)  # as published
    assert count("delegate_nano", 256).total == count_flops(
        build_model("delegate_nano", image_size=256)
    )


def curves() -> list[Curve]:
    """Made-up costs: n + n²/10⁶ for n pixels, and photographs in proportion."""
    sides = [128, 256, 512]
    seconds = {side: [(side**2 + side**4 / 1e6) * f for f in (0.9, 1, 1.2)] for side in sides}
    scored = {number: [number / 50] for number in (100, 1000)}
    steps = {1: [4.0], 2: [2.5]}
    return [
        Curve("image size", "delegate_nano, forward", "s", 2.1, values=seconds),
        Curve("photographs", "scoring", "s", 1.0, work=1.0, values=scored),
        Curve("processes", "training step", "s", work=0.0, values=steps),
    ]


def test_table_figures_and_ratios_of_known_curves(tmp_path: Path) -> None:
    terms = points_terms(curves())
    assert terms["delegate_nano, seconds"].crossing == pytest.approx(1000)
    assert 1000 < terms["delegate_nano, FLOPs"].crossing < 1200
    assert "most of it from 1000 pixels a side on" in dominance(terms)
    table = exponents(curves())
    assert re.search(r"scoring \(s\) +100 +1000 +2 +20 +1\.00 +– +1\.00", table)
    result = result_of(curves(), "cpu")
    assert result.ratios == pytest.approx(
        {"scoring, photographs 1000 / 100": 1.0, "training step, processes 2 / 1": 1.6}
    )
    exponent = [row for row in result.rows if row.unit == "exponent"][1]
    assert (exponent.name, exponent.median) == ("scoring over photographs", pytest.approx(1))
    draw(curves(), terms, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert (pixels[:, : pixels.shape[1] // 3] < 128).any()


def test_photographs_are_counted_as_they_come(tmp_path: Path) -> None:
    """The one sweep that is small enough to run here."""
    folders = write_photographs(tmp_path, (3, 40))
    assert len(list((tmp_path / "40" / "images").iterdir())) == 40
    measured = over_photographs(folders, 1)
    assert [sorted(curve.values) for curve in measured] == [[3, 40]] * 5
    seconds = next(curve for curve in measured if curve.name.startswith("scoring")).medians
    assert 0 < seconds[3] < seconds[40]
