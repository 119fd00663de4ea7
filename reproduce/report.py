"""REPRODUCTION.md: the paper's tables and figures, our numbers beside the published ones.

    python reproduce/report.py                         # finished trials below runs/nni
    python reproduce/report.py --runs DIR --out FILE
    python reproduce/report.py --released FOLDER --data-root-icaa17k DIR --data-root-spaq DIR

The last one loads the released ICAA17K and SPAQ checkpoints, scores the test splits with them and
compares with the numbers in their names; its results stay in runs/released for later reports.

Exit code 0: written; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import run_cli
from nni_trial import RUNS
from reproduce.figure6 import save_figure_6
from reproduce.markdown import FLOPS_NOTE, ON_TEST, released_part, setups_part, table_part
from reproduce.published import FIGURE_6, TABLES
from reproduce.released import Evaluation, evaluate, find_released, read_evaluations
from reproduce.trials import Trial, on_sample, read_trials, results_of
from run_folder import replacing

INTRODUCTION = f"""\
# Reproduction of the paper

Written by `python reproduce/report.py`. Ours: mean over n seeds ± standard deviation (n − 1), on
the test split; the difference is ours less the paper's. {ON_TEST} marks numbers whose epoch was
selected on the test split, as the paper's were: too good by construction. Hours: training and
validation, of all n trials together.

{FLOPS_NOTE}"""
NO_REPRODUCTION = """\
> **Sample data set: run {names} reproduces nothing of the paper.** A small network on the built-in
> synthetic pictures shows that every table and figure comes out of one command. Its scores say
> nothing of the paper's, so no difference is given.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--runs", type=Path, default=RUNS, help="folder of the experiments (default: runs/nni)")
    add("--out", type=Path, default=Path("REPRODUCTION.md"), help="the figure goes beside it")
    add("--released", type=Path, help="folder of released checkpoints to score")
    add("--released-runs", type=Path, default=Path("runs/released"), help="where results stay")
    add("--data-root-icaa17k", type=Path, default=Path("data/icaa17k"))
    add("--data-root-spaq", type=Path, default=Path("data/spaq"))
    add("--batch-size", type=int, help="--released: instead of 16 (ICAA17K) and 32 (SPAQ)")
    add("--device", default="auto", help="--released: auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    if args.released:
        roots = {"icaa17k": args.data_root_icaa17k, "spaq": args.data_root_spaq}
        for file in find_released(args.released):
            given = {"data_root": roots[file.dataset], "device": args.device}
            evaluate(file, args.released_runs, given, batch_size=args.batch_size)
    evaluations = read_evaluations(args.released_runs)
    trials = [] if evaluations and not args.runs.is_dir() else read_trials(args.runs)
    write_report(args.out, trials, evaluations)
    print(f"\n{args.out}: {len(trials)} trials, {len(evaluations)} evaluations of released weights")


def write_report(out: Path, trials: Sequence[Trial], evaluations: Sequence[Evaluation]) -> None:
    """REPRODUCTION.md at `out`, and NAME_figure6.png beside it."""
    setups = dict.fromkeys(
        result.setup
        for table in TABLES
        for row in table.rows
        for result in results_of(trials, table, row)
    )
    names = {setup: str(number) for number, setup in enumerate(setups, start=1)}
    parts = [INTRODUCTION]
    if samples := [name for setup, name in names.items() if on_sample(setup)]:
        parts.append(NO_REPRODUCTION.format(names=", ".join(samples)))
    parts.append(setups_part(names))
    for table in TABLES:
        if table is FIGURE_6[0]:
            figure = out.with_name(f"{out.stem}_figure6.png")
            save_figure_6(figure, trials, names)
            parts.append(f"## Figure 6\n\n![Figure 6]({figure.name})\n")
        parts.append(table_part(table, trials, names))
    if evaluations:
        parts.append(released_part(evaluations))
    with replacing(out) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
