"""What all benchmarks share: repeats that take turns, a table, and figures as JSON.

A benchmark's JSON, which `benchmarks/run.py` reads, is a `Result`: "benchmark", "device" (cpu or
cuda), "rows" (each "name", "unit", "median", "min", "max", "n") and "ratios" (name: number). Ratios
are such that more is better; unlike times they hold on other machines, so they are what is compared
with earlier runs.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from errors import UserError
from run_folder import replacing

REPEATS = 5
Key = TypeVar("Key")


@dataclass(frozen=True)
class Row:
    """One measured thing: median, least and most of `n` repeats, in `unit`."""

    name: str
    unit: str
    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Row:
        """The row of `values`, one a repeat."""
        return cls(name, unit, statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Result:
    """All that a benchmark has measured."""

    benchmark: str
    device: str  # cpu or cuda
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path | None) -> None:
        """Write the JSON of the module's docstring; nothing without a path (`--json` not given)."""
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """What `save` wrote. Raises `UserError` for anything else."""
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            rows = [Row(**row) for row in values.pop("rows")]
            return cls(rows=rows, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not the figures of a benchmark ({error!r})") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every benchmark has."""
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")


def seconds_in_turn(
    ways: Mapping[Key, Callable[[], object]],
    repeats: int,
    *,
    warm_up: bool = True,
    device: str = "cpu",
) -> dict[Key, list[float]]:
    """Seconds of `repeats` calls of each of `ways`, by its key.

    One call of each before the next repeat, so that whatever else the machine does falls on all
    alike and their ratio is fair. warm_up: call each once before. device: of the work, waited for.
    """
    if warm_up:
        for way in ways.values():
            way()
    seconds: dict[Key, list[float]] = {key: [] for key in ways}
    for _ in range(repeats):
        for key, way in ways.items():
            synchronize(device)
            started = time.perf_counter()
            way()
            synchronize(device)
            seconds[key].append(time.perf_counter() - started)
    return seconds


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def process_memory(*fields: str) -> list[float]:
    """GiB of this process, of Linux: VmRSS; VmHWM, its peak; RssAnon, its own; RssFile, mapped.

    (getrusage's peak would start at that of the process before.)
    """
    status = Path("/proc/self/status").read_text()
    return [int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 2**20 for field in fields]


def format_table(result: Result) -> str:
    """Rows and ratios as lines for the terminal."""
    width = max([len(row.name) for row in result.rows] + [len(n) for n in result.ratios] + [12])
    lines = [f"{'':{width}}  {'median':>12}{'min':>12}{'max':>12}{'n':>5}"]
    for row in result.rows:
        figures = "".join(f"{value:12.5g}" for value in (row.median, row.min, row.max))
        lines.append(f"{row.name:{width}}  {figures}{row.n:5}  {row.unit}")
    lines += [f"{name:{width}}  {value:11.3g}×  ratio" for name, value in result.ratios.items()]
    return "\n".join(lines)
