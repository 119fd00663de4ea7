"""What helps beyond the paper: every option against the base, on photographs and on the sample.

    python benchmarks/what_helps.py --oasis DIR      # train.csv, test.csv, images/ (OASIS, beauty)
    python benchmarks/what_helps.py --table          # what there is so far, as markdown

delegate_cnn on the OASIS photographs and delegate_nano from scratch on the built-in sample, with
the defaults of train_nni.py (recipe ours: cosine schedule with warm-up, weight decay) but fewer
epochs. The epoch is selected on a part of train; the figures are those of test. Runs come seed by
seed, each adds a line to --results, and what stands there is not run again: stop and start at will.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_nni  # noqa: E402
from config_layers import resolve_config  # noqa: E402
from errors import UserError, run_cli  # noqa: E402
from preemption import EXIT_CODE, Preempted  # noqa: E402
from run_folder import replacing  # noqa: E402

BASE = "(base)"
# Options by name: the flags that set them. Each is compared with the base of the same seed.
OPTIONS = {
    BASE: "",
    "point_pooling batch": "--point-pooling batch",
    "point_pooling running": "--point-pooling running",
    "gate_gradient straight_through": "--gate-gradient straight_through",
    "constant schedule, no warm-up": "--schedule constant --warmup-epochs 0",
    "no weight decay": "--weight-decay 0",
    "EMA of weights": "--ema-decay 0.99",
    "aspect pad": "--aspect pad",
    "flip TTA": "--flip-tta",
    "PLCC loss": "--plcc-weight 0.05",
    "pairwise ranking loss": "--rank-weight 0.05",
    "layer-wise lr decay": "--layer-decay 0.8",
}
CONFIDENCE = {  # OASIS tells how many rated a photograph, and how far apart they were
    "confidence: raters": "--confidence-column raters --confidence-power 1",
    "confidence: 1 / sd of raters": "--confidence-column beauty_sd --confidence-power -1",
}
EPOCHS = {"oasis": 4, "sample": 8}
TRAINED_ON = {"oasis": "OASIS, delegate_cnn", "sample": "sample, delegate_nano from scratch"}


@dataclass(frozen=True)
class Result:
    """One training; `flags` are those of the option, srcc and plcc of the test split."""

    data: str  # a key of EPOCHS
    flags: str
    seed: int
    epochs: int
    best_epoch: int
    srcc: float
    plcc: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells one training from another."""
        return self.data, self.flags, self.seed, self.epochs


def options_for(data: str) -> dict[str, str]:
    """The options that can be tried on a data set."""
    return OPTIONS | CONFIDENCE if data == "oasis" else OPTIONS


def data_flags(data: str, oasis: Path | None) -> list[str]:
    """The flags that choose the data set."""
    if data == "sample":
        return ["--dataset", "sample", "--data-root", str(ROOT / "data/sample")]
    return [
        *("--dataset", "csv", "--image-column", "ID", "--image-root", str(oasis / "images")),
        *("--train-csv", str(oasis / "train.csv"), "--test-csv", str(oasis / "test.csv")),
        *("--score-columns", "beauty", "--score-range", "1,7", "--workers", "0"),
    ]


def train(data: str, flags: str, seed: int, epochs: int, oasis: Path | None) -> Result:
    """One training in a folder that is removed again."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        argv = [*data_flags(data, oasis), *flags.split(), "--seed", str(seed)]
        argv += ["--epochs", str(epochs), "--bootstrap", "0", "--no-baselines"]
        output = Path(folder)
        with (output / "terminal.txt").open("w") as text, redirect_stdout(text):
            config = resolve_config([*argv, "--output", str(output / "run")], {})
            progress, summaries = train_nni.run(config)
    metrics = list(summaries["test"]["targets"].values())[-1]
    srcc, plcc = (metrics[name]["value"] for name in ("srcc", "plcc"))
    seconds = round(time.perf_counter() - started, 1)
    return Result(data, flags, seed, epochs, progress.best_epoch, srcc, plcc, seconds)


def read_results(path: Path) -> list[Result]:
    """The trainings so far."""
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """A line a training; the file is whole at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))


def sweep(args: argparse.Namespace) -> int:
    """Run what is not in --results yet; exit code 1 if an option could not be run, 75 if a signal
    stopped it."""
    results, failed = read_results(args.results), 0
    sets = ["oasis", "sample"] if args.oasis else ["sample"]
    plan = [
        (data, flags, seed, args.epochs or EPOCHS[data])
        for seed in args.seeds
        for option in OPTIONS | CONFIDENCE
        for data in sets
        if (flags := options_for(data).get(option)) is not None
    ]
    for number, (data, flags, seed, epochs) in enumerate(plan, start=1):
        where = f"{number}/{len(plan)} {data}, seed {seed}, {flags or BASE}"
        if (data, flags, seed, epochs) in {result.key for result in results}:
            continue
        try:
            result = train(data, flags, seed, epochs, args.oasis)
        except UserError as error:
            failed += 1
            print(f"{where}: {error}", flush=True)
            continue
        except Preempted:
            print(f"{where}: stopped; start again to go on", flush=True)
            return EXIT_CODE
        results.append(result)
        write_results(args.results, results)
        print(f"{where}: SRCC {result.srcc:.4f}, {result.seconds:.0f} s", flush=True)
    return int(failed > 0)


# ----------------------------------------------------------------------------- the table


def table(results: Sequence[Result], data: str) -> str:
    """Markdown: each option's test figures, and its difference to the base of the same seeds."""
    epochs = max(result.epochs for result in results if result.data == data)
    runs: dict[str, dict[int, Result]] = {}
    for result in results:
        if (result.data, result.epochs) == (data, epochs):
            runs.setdefault(result.flags, {})[result.seed] = result
    base = runs.get("", {})
    lines = [
        f"{TRAINED_ON[data]}, {epochs} epochs:\n",
        "| option | flags | SRCC (n seeds) | PLCC | SRCC less base's | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for option, flags in options_for(data).items():
        if not (found := runs.get(flags)):
            continue
        cells = [
            f"{spread([run.srcc for run in found.values()])} ({len(found)})",
            spread([run.plcc for run in found.values()]),
        ]
        differences = [found[seed].srcc - base[seed].srcc for seed in found if seed in base]
        cells += ["", ""] if not flags else [spread(differences, "+"), verdict(differences)]
        lines.append(f"| {option} | {f'`{flags}`' if flags else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """mean ± standard deviation (n - 1)."""
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.4f}{deviation}"


def verdict(differences: Sequence[float]) -> str:
    """Whether the mean of paired differences is more than 2 of its standard errors from 0."""
    if len(differences) < 2:
        return "too few seeds"
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    if abs(np.mean(differences)) <= 2 * error:
        return "no clear effect"
    return "helped" if np.mean(differences) > 0 else "hurt"


def print_tables(results: Sequence[Result]) -> None:
    """The tables of what there is, and how much their verdicts are worth."""
    for data in EPOCHS:
        if any(result.data == data for result in results):
            print(table(results, data) + "\n")
    seeds = len({result.seed for result in results})
    if seeds > 1:
        chance = 2 * stats.t.sf(2, seeds - 1)
        print(
            f"With {seeds} seeds, {chance:.0%} of options without any effect would be more than 2 "
            "standard errors off: take one verdict as a hint, no more."
        )


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--oasis", type=Path, help="folder of the OASIS photographs (default: the sample alone)")
    add("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    add("--epochs", type=int, help=f"of every training (default: {EPOCHS})")
    add("--results", type=Path, default=ROOT / "runs/what_helps.jsonl", help="a line a training")
    add("--table", action="store_true", help="print the table and train nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep, then print the tables."""
    args = parse_arguments(argv)
    code = 0 if args.table else sweep(args)
    print_tables(read_results(args.results))
    return code


if __name__ == "__main__":
    run_cli(main)
