"""Run the benchmarks that this machine can, and compare with earlier runs.

    python benchmarks/run.py --images PHOTOGRAPHS           # all of them, one table (15 minutes)
    python benchmarks/run.py --only model_speed --check     # exit code 1: slower than recorded
    python benchmarks/run.py --record                       # write down the ratios
    python benchmarks/run.py --from FOLDER --record         # those of figures made elsewhere

Each runs in a process of its own and gives its figures as JSON (`benchmarks/measuring.py`). Ratios,
of which more is better, are what is recorded (`benchmarks/recorded.json`, by kind of machine) and
compared, as seconds belong to one machine: more than 10 % below the recorded ratio is a regression.
With --check, benchmarks that have one run once more, and the better ratios count: another program's
work is seldom there twice, a slower version always is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import Result
from errors import UserError, run_cli
from run_folder import replacing

FOLDER = Path(__file__).resolve().parent
RECORDED = FOLDER / "recorded.json"
TOLERANCE = 0.1  # share of a recorded ratio that may be lost

Ratios = dict[str, dict[str, dict[str, float]]]  # kind of machine, benchmark, ratio


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder and how it is called; `{images}` stands for --images."""

    arguments: tuple[str, ...] = ()
    needs_gpu: bool = False

    @property
    def needs_images(self) -> bool:
        """Whether it works on photographs of the user's."""
        return "{images}" in self.arguments

    def command(self, name: str, images: Path | None, json_file: Path) -> list[str]:
        """The command line that writes `json_file`."""
        arguments = [str(images) if a == "{images}" else a for a in self.arguments]
        return [sys.executable, str(FOLDER / f"{name}.py"), *arguments, "--json", str(json_file)]


BENCHMARKS = {
    "model_speed": Benchmark(),
    "matmul_speed": Benchmark(),
    "gpu_speed": Benchmark(needs_gpu=True),
    "loader_speed": Benchmark(),
    "color_maths_speed": Benchmark(),
    "predict_speed": Benchmark(
        ("delegate_cnn", "delegate_base", "--images", "{images}", "--count", "50")
    ),
    "predict_memory": Benchmark(("--count", "6000")),
    "growth": Benchmark(),
}


@dataclass(frozen=True)
class Comparison:
    """A ratio beside the recorded one, if there is any."""

    benchmark: str
    name: str
    ratio: float
    recorded: float | None

    @property
    def regressed(self) -> bool:
        """Whether more than `TOLERANCE` of the recorded ratio is lost; a nan is lost, too."""
        if self.recorded is None:
            return False
        return not self.ratio >= (1 - TOLERANCE) * self.recorded


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    names = ", ".join(BENCHMARKS)
    only = {"nargs": "+", "choices": BENCHMARKS, "metavar": "NAME", "default": list(BENCHMARKS)}
    parser.add_argument("--only", **only, help=f"of {names}")
    parser.add_argument("--images", type=Path, help="folder of photographs, for those that need it")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a ratio regressed")
    parser.add_argument("--record", action="store_true", help="write the ratios as recorded ones")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="file of recorded ratios")
    parser.add_argument("--from", dest="folder", type=Path, help="run none: FOLDER/NAME.json")
    parser.add_argument("--keep", type=Path, help="folder for the benchmarks' JSON files")
    args = parser.parse_args(argv)
    if args.check and args.record:
        parser.error("--check and --record: one after the other")
    return args


def why_not(benchmark: Benchmark, images: Path | None) -> str | None:
    """Why this machine cannot run it; None if it can."""
    if benchmark.needs_gpu and not torch.cuda.is_available():
        return "no GPU"
    if benchmark.needs_images and images is None:
        return "no photographs: --images FOLDER"
    return None


def run(
    names: Sequence[str], images: Path | None, folder: Path
) -> tuple[list[Result], dict[str, str]]:
    """Results of the benchmarks that ran, and why the others did not: {name: reason}.

    Their JSON files go to `folder`. One that fails is among the others, its last words the reason.
    """
    results, missing = [], {}
    for name in names:
        reason = why_not(BENCHMARKS[name], images)
        if reason is None:
            print(f"{name} ...", file=sys.stderr, flush=True)
            file = folder / f"{name}.json"
            command = BENCHMARKS[name].command(name, images, file)
            done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
            if done.returncode == 0:
                results.append(Result.load(file))
            else:
                words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                reason = f"failed: {words[-1]}"
        if reason is not None:
            missing[name] = reason
    return results, missing


def measure(
    args: argparse.Namespace, folder: Path, recorded: Ratios
) -> tuple[list[Result], dict[str, str]]:
    """`run` into `folder`; with --check, benchmarks with a regression twice."""
    results, missing = run(args.only, args.images, folder)
    doubtful = {c.benchmark for c in compare(results, recorded) if c.regressed}
    if args.check and doubtful:
        print(f"regressed, so once more: {', '.join(sorted(doubtful))}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as second:
            again, _ = run(sorted(doubtful), args.images, Path(second))
        by_name = {result.benchmark: result for result in again}
        results = [
            better_of(r, by_name[r.benchmark]) if r.benchmark in by_name else r for r in results
        ]
    return results, missing


def better_of(first: Result, second: Result) -> Result:
    """Figures of both, with the higher one of each ratio that both have."""
    ratios = {
        name: float(np.fmax(ratio, second.ratios.get(name, ratio)))
        for name, ratio in first.ratios.items()
    }
    again = [replace(row, name=f"{row.name}, again") for row in second.rows]
    return replace(first, rows=[*first.rows, *again], ratios=ratios)


def load(names: Sequence[str], folder: Path) -> tuple[list[Result], dict[str, str]]:
    """The same from JSON files of `folder`, made earlier or on another machine."""
    files = {name: folder / f"{name}.json" for name in names}
    results = [Result.load(file) for file in files.values() if file.is_file()]
    missing = {name: f"no {file}" for name, file in files.items() if not file.is_file()}
    if not results:
        wanted = ", ".join(file.name for file in files.values())
        raise UserError(f"--from {folder}: there is none of {wanted}")
    return results, missing


def read_recorded(path: Path) -> Ratios:
    """Recorded ratios; none where there is no such file. Raises `UserError`."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); --record writes it anew") from None


def record(results: Sequence[Result], path: Path) -> None:
    """Write the results' ratios over those recorded for the same benchmarks and kind of machine."""
    recorded = read_recorded(path)
    for result in results:
        kind = recorded.setdefault(result.device, {})
        kind[result.benchmark] = {name: round(ratio, 3) for name, ratio in result.ratios.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")


def compare(results: Sequence[Result], recorded: Ratios) -> list[Comparison]:
    """Every ratio of `results` beside the one recorded for that kind of machine."""
    return [
        Comparison(
            result.benchmark,
            name,
            ratio,
            recorded.get(result.device, {}).get(result.benchmark, {}).get(name),
        )
        for result in results
        for name, ratio in result.ratios.items()
    ]


def no_longer_measured(results: Sequence[Result], recorded: Ratios) -> list[str]:
    """Ratios that are recorded for the benchmarks that ran, and that these no longer give."""
    return [
        f"{result.benchmark}, {name}"
        for result in results
        for name in recorded.get(result.device, {}).get(result.benchmark, {})
        if name not in result.ratios
    ]


def format_results(
    results: Sequence[Result], comparisons: Sequence[Comparison], missing: Mapping[str, str]
) -> str:
    """One table: rows of all benchmarks, then all ratios, then what did not run."""
    names = [row.name for result in results for row in result.rows]
    width = max([len(name) for name in [*names, *(c.name for c in comparisons)]] + [20])
    lines = [f"{'':18} {'':{width}} {'median':>11}{'min':>11}{'max':>11}{'n':>4}"]
    for result in results:
        for row in result.rows:
            figures = "".join(f"{value:11.4g}" for value in (row.median, row.min, row.max))
            lines.append(f"{result.benchmark:18} {row.name:{width}} {figures}{row.n:4} {row.unit}")
    lines.append(f"\n{'':18} {'ratio, more is better':{width}} {'now':>11}{'recorded':>11}")
    for this in comparisons:
        before = "–" if this.recorded is None else f"{this.recorded:.3g}"
        change = f"{this.ratio / this.recorded - 1:+11.0%}" if this.recorded else ""
        mark = "  REGRESSED" if this.regressed else ""
        figures = f"{this.ratio:11.3g}{before:>11}{change}{mark}"
        lines.append(f"{this.benchmark:18} {this.name:{width}} {figures}")
    lines += [f"not run: {name} ({reason})" for name, reason in missing.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run or load, print, compare or record; exit code 1: a benchmark failed, or with --check a
    ratio regressed or is no longer there."""
    args = parse_arguments(argv)
    recorded = read_recorded(args.recorded)
    if args.folder:
        results, missing = load(args.only, args.folder)
    elif args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        results, missing = measure(args, args.keep, recorded)
    else:
        with tempfile.TemporaryDirectory() as folder:
            results, missing = measure(args, Path(folder), recorded)
    comparisons = compare(results, recorded)
    print(format_results(results, comparisons, missing))
    if args.record:
        record(results, args.recorded)
        print(f"recorded in {args.recorded}")
    regressed = [f"{c.benchmark}, {c.name}" for c in comparisons if c.regressed]
    if args.check:
        unknown = sum(c.recorded is None for c in comparisons)
        verdict = f"regressed by more than {TOLERANCE:.0%}: {'; '.join(regressed) or 'nothing'}"
        print(verdict + (f" ({unknown} ratios have no record)" if unknown else ""))
    gone = no_longer_measured(results, recorded) if args.check else []
    if gone:
        print(f"recorded, but not measured: {'; '.join(gone)}")
    failed = any(reason.startswith("failed") for reason in missing.values())
    return 1 if failed or gone or (args.check and regressed) else 0


if __name__ == "__main__":
    run_cli(main)
