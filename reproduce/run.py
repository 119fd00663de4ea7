"""The paper's tables and figures as NNI experiments, one after the other; then REPRODUCTION.md.

    python reproduce/run.py                               # all, on the GPUs at hand, a trial each
    python reproduce/run.py --tables table5 table6        # some: the names of reproduce/*.yml
    python reproduce/run.py --protocol holdout            # ours: epoch selected on a part of train
    python reproduce/run.py --scale sample                # the built-in sample, minutes on 2 cores

Wants data/icaa17k, data/spaq and pretrained/ava.pth, or their places as flags. Any other flag goes
to every trial (train_nni.py --help): --amp bf16 --workers 8. Watch it at http://127.0.0.1:8999.
The same command again goes on after an interruption (Ctrl-C saves checkpoints; trials continue in
the middle of their epoch) and passes over what has finished.

Exit code 0: done; 1: trials failed; 2: bad input.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from nni.experiment import Experiment, ExperimentConfig
from nni.tools.nnictl.config_utils import Experiments
from nni.tools.nnictl.nnictl_utils import update_experiment

from config_layers import from_command_line
from errors import UserError, run_cli
from nni_best import finished_trials
from nni_trial import RUNS
from reproduce import report
from reproduce.experiments import (
    NAMES,
    PROTOCOLS,
    ROOT,
    Plan,
    check_inputs,
    make_plan,
)

LOOK_EVERY = 2  # seconds
ENDED = ("DONE", "STOPPED", "ERROR")  # NNI's words


def missing(plan: Plan, runs: Path) -> int:
    """Points of `plan` for which no trial below `runs` has finished."""
    done = [
        trial.parameters
        for experiment in runs.glob(f"{plan.prefix}*")
        for trial in finished_trials(experiment)
    ]
    return sum(point not in done for point in plan.points)


def run_plan(plan: Plan, args: argparse.Namespace) -> bool:
    """Run or resume the experiment; True when every point has finished."""
    runs = args.folder / RUNS
    update_experiment()  # NNI looks which experiments still run
    known = {
        int(name.removeprefix(plan.prefix)): entry["status"]
        for name, entry in Experiments().get_all_experiments().items()
        if name.startswith(plan.prefix)
    }
    last = max(known, default=0)
    name = f"{plan.prefix}{last}"
    if known.get(last, "STOPPED") != "STOPPED":
        raise UserError(f"experiment {name} is running already: nnictl stop {name} stops it")
    if not args.again and not missing(plan, runs):
        print(f"{plan.name}: all {len(plan.points)} trials have finished (--again: once more)")
        return True
    # What ran in another folder, or was removed since, is not gone on with.
    resume = last > 0 and not args.again and (runs / name).is_dir()
    name = name if resume else f"{plan.prefix}{last + 1}"
    print(f"\n=== {plan.name}: {len(plan.points)} trials, experiment {name}\n{plan.command}")
    config = plan.nni_config(args.folder, gpus=args.gpus, concurrency=args.concurrency)
    experiment = Experiment(ExperimentConfig(**config), id=name)
    try:
        start = experiment.resume if resume else experiment.run
        start(port=args.port, wait_completion=False)
        if experiment.port is None:  # NNI keeps a Ctrl-C at this point to itself
            raise KeyboardInterrupt
        wait(experiment, plan, runs / name)
    finally:
        experiment.stop()
    left = missing(plan, runs)
    if left:
        print(
            f"{plan.name}: {left} of {len(plan.points)} trials did not finish; why is in "
            f"~/nni-experiments/{name}/environments/local-env/trials/*/trial.stderr. To start them "
            "anew: --again"
        )
    return not left


def wait(experiment: Experiment, plan: Plan, folder: Path) -> None:
    """Until the experiment has ended, a line for each trial that has."""
    started, done = time.monotonic(), 0
    while experiment.get_status() not in ENDED:
        time.sleep(LOOK_EVERY)
        count = len(list(folder.glob("*/metrics.json")))
        if count != done:
            minutes = (time.monotonic() - started) / 60
            print(f"{plan.name}: {count}/{len(plan.points)} trials, {minutes:.1f} min", flush=True)
            done = count


def numbers(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers."""
    return tuple(int(part) for part in text.split(","))


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This file's flags, and those for train_nni.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--tables", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    add("--scale", choices=("full", "sample"), default="full")
    add("--protocol", choices=PROTOCOLS, help="default: paper; with --scale sample: holdout")
    add("--seeds", type=numbers, help="default: 0,1,2; with --scale sample: 0,1")
    add("--data-root-icaa17k", type=Path, help="default: data/icaa17k")
    add("--data-root-spaq", type=Path, help="default: data/spaq")
    add("--init-from", help="weights to start from (default: pretrained/ava.pth)")
    add("--gpus", type=int, help="default: as many as there are; with --scale sample: none")
    add("--concurrency", type=int, help="trials at a time (default: one a GPU, or a core)")
    add("--again", action="store_true", help="start anew what has finished or failed, too")
    add("--folder", type=Path, default=ROOT, help="trials go to runs/nni in it (default: here)")
    add("--port", type=int, default=8999, help="of NNI's web page")
    add("--out", type=Path, default=Path("REPRODUCTION.md"), help="the report")
    return parser.parse_known_args(argv)


def plans(args: argparse.Namespace, extra: Sequence[str]) -> list[Plan]:
    """The experiments that the command line asks for, their inputs looked at."""
    changes = from_command_line(extra)[1]
    if args.init_from is not None:
        given = args.init_from
        changes["init_from"] = None if given == "none" else Path(given).expanduser().absolute()
    result = []
    for name in args.tables:
        root = args.data_root_spaq if name == "table4" else args.data_root_icaa17k
        data = {"data_root": root.absolute()} if root and args.scale == "full" else {}
        plan = make_plan(
            name,
            scale=args.scale,
            protocol=args.protocol,
            seeds=args.seeds,
            changes=data | changes,
        )
        check_inputs(plan)
        result.append(plan)
    return result


def settle_machine(args: argparse.Namespace) -> None:
    """Fill in --gpus and --concurrency. Raises `UserError` at full scale without a GPU."""
    if args.gpus is None:
        args.gpus = torch.cuda.device_count() if args.scale == "full" else 0
        if args.scale == "full" and not args.gpus:
            raise UserError(
                "no GPU is to be seen, and the paper's tables are some hundred trainings of"
                " delegate_base: --gpus 0 runs them on the CPU all the same; --scale sample tries"
                " everything out"
            )
    cores = len(os.sched_getaffinity(0))
    if args.concurrency is None:
        args.concurrency = args.gpus or cores
    if not args.gpus:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // args.concurrency)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    args, extra = parse_arguments(sys.argv[1:] if argv is None else argv)
    args.folder = args.folder.absolute()
    args.folder.mkdir(parents=True, exist_ok=True)
    wanted = plans(args, extra)
    settle_machine(args)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", args.port)) == 0:
            raise UserError(f"port {args.port} is taken: give another --port")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as Ctrl-C does
    started = time.monotonic()
    try:
        finished = [run_plan(plan, args) for plan in wanted]
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here")
        return 130
    print(f"\nall experiments: {(time.monotonic() - started) / 60:.1f} minutes")
    report.main(["--runs", str(args.folder / RUNS), "--out", str(args.out)])
    return 0 if all(finished) else 1


if __name__ == "__main__":
    run_cli(main)
