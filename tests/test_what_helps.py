"""The sweep over options: what it runs, in which order, how it goes on, and its table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import what_helps
from benchmarks.what_helps import BASE, OPTIONS, Result, main, read_results, table, verdict
from errors import UserError


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, int]]]:
    """What was trained, by (data, flags, seed); trainings are not really run."""
    runs: list[tuple[str, str, int]] = []

    def train(data: str, flags: str, seed: int, epochs: int, oasis: Path | None) -> Result:
        if len(runs) == 20:
            raise KeyboardInterrupt
        runs.append((data, flags, seed))
        return Result(data, flags, seed, epochs, 1, 0.5 + seed / 10, 0.4, 1.0)

    monkeypatch.setattr(what_helps, "train", train)
    return runs


def test_a_sweep_that_is_stopped_goes_on(
    trained: list[tuple[str, str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--oasis", "photographs", "--results", str(tmp_path / "new/results.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    first = list(trained)
    assert len(read_results(tmp_path / "new/results.jsonl")) == 20
    assert first[:3] == [("oasis", "", 0), ("sample", "", 0), ("oasis", "--point-pooling batch", 0)]
    while True:
        trained.clear()
        try:
            assert main(argv) == 0
            break
        except KeyboardInterrupt:
            first += trained
    first += trained
    per_seed = 2 * len(OPTIONS) + len(what_helps.CONFIDENCE)
    assert len(first) == len(set(first)) == 3 * per_seed  # nothing twice
    assert [seed for *_, seed in first] == sorted(seed for *_, seed in first)
    assert ("sample", "--confidence-column raters --confidence-power 1", 0) not in first
    assert capsys.readouterr().out.count("| no clear effect |") == 2 * len(OPTIONS)


def test_an_option_that_fails_is_named_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(data: str, flags: str, seed: int, epochs: int, oasis: Path | None) -> Result:
        if "ema" in flags:
            raise UserError("no such thing")
        return Result(data, flags, seed, epochs, 1, 0.5, 0.4, 1.0)

    monkeypatch.setattr(what_helps, "train", train)
    argv = ["--results", str(tmp_path / "results.jsonl"), "--seeds", "4"]
    assert main(argv) == main(argv) == 1
    assert "seed 4, --ema-decay 0.99: no such thing" in capsys.readouterr().out
    assert len(read_results(tmp_path / "results.jsonl")) == len(OPTIONS) - 1


def test_table_by_hand() -> None:
    """Differences are paired by seed: .02, .03, .04 of means .03 and sd .01; 2 errors are .0115."""
    base, better = (0.50, 0.60, 0.70), (0.52, 0.63, 0.74)
    flags = OPTIONS["flip TTA"]
    results = [
        Result("sample", name, seed, 8, 1, srcc, srcc + 0.1, 1.0)
        for name, values in (("", base), (flags, better))
        for seed, srcc in enumerate(values)
    ]
    results.append(Result("sample", "", 0, 1, 1, -0.9, -0.9, 1.0))  # a trial run of one epoch
    lines = table(results, "sample").splitlines()
    assert lines[-2] == f"| {BASE} |  | 0.6000 ± 0.1000 (3) | 0.7000 ± 0.1000 |  |  |"
    assert lines[-1] == (
        f"| flip TTA | `{flags}` | 0.6300 ± 0.1100 (3) | 0.7300 ± 0.1100 "
        "| +0.0300 ± 0.0100 | helped |"
    )


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.02, 0.03, 0.04], "helped"),
        ([-0.02, -0.03, -0.04], "hurt"),
        ([-0.01, 0.03, 0.04], "no clear effect"),  # mean .02, standard error .0153
        ([0.3], "too few seeds"),
    ],
)
def test_verdicts(differences: list[float], expected: str) -> None:
    assert verdict(differences) == expected
