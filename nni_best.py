"""The best trial of an NNI experiment: its parameters, metrics, checkpoint and test scores.

    python train_nni.py best --experiment ID          # ID as `nnictl experiment list --all` says

Reads the run folders runs/nni/ID/*, so the experiment may be over. The best trial is the one whose
final result NNI holds highest: SRCC on the validation split. It is then scored on the test split,
once: unless it did so itself, into the folder `test` of its run folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import TrainConfig
from config_layers import CONFIG, from_yaml
from errors import UserError
from nni_trial import RUNS
from results import format_table


@dataclass(frozen=True)
class Finished:
    """A trial that came to its end."""

    path: Path  # its run folder
    metrics: dict[str, Any]  # metrics.json
    parameters: dict[str, Any]  # chosen by NNI

    @property
    def srcc(self) -> float:
        """What NNI maximizes; -1 where it is undefined."""
        selected_on = self.metrics["val" if self.metrics["protocol"] == "holdout" else "test"]
        value = selected_on["targets"][self.metrics["target"]]["srcc"]["value"]
        return -1.0 if value is None else value


def finished_trials(experiment: Path) -> list[Finished]:
    """The trials of an experiment's folder that ended well."""
    trials = []
    for path in sorted(experiment.glob("*/metrics.json")):
        environment = json.loads((path.parent / "environment.json").read_text(encoding="utf-8"))
        metrics = json.loads(path.read_text(encoding="utf-8"))
        trials.append(Finished(path.parent, metrics, environment["nni"]["parameters"]))
    return trials


def show_best(argv: Sequence[str], run: Callable[[TrainConfig], Any]) -> None:
    """Print the best trial of the experiment that the command line names; score it with `run`."""
    parser = argparse.ArgumentParser("train_nni.py best", description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", required=True, help="the experiment's id")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the experiments' runs")
    args = parser.parse_args(argv)
    folder = args.runs / args.experiment
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in args.runs.glob("*"))) or "none"
        raise UserError(f"no experiment at {folder}; in {args.runs} there are: {known}")
    trials = finished_trials(folder)
    if not trials:
        raise UserError(f"no trial in {folder} has finished")
    best = max(trials, key=lambda trial: trial.srcc)
    count = sum(1 for path in folder.iterdir() if (path / CONFIG).is_file())
    print(f"experiment {args.experiment}: {len(trials)} of {count} trials finished")
    print(f"best trial: {best.path.name}, SRCC {best.srcc:.4f} where the epoch was selected")
    print("parameters:" + "".join(f"\n  {key}: {value}" for key, value in best.parameters.items()))
    print(f"checkpoint: {best.path / 'best'}\n")
    summaries = {name: best.metrics[name] for name in ("val", "test") if name in best.metrics}
    if "test" not in summaries:
        summaries["test"] = score_once(best, run)
    print("\n" + format_table(summaries, target=best.metrics["target"]))


def score_once(best: Finished, run: Callable[[TrainConfig], Any]) -> dict[str, Any]:
    """Summary of the best weights' metrics on the test split, which `run` scores the first time."""
    output = best.path / "test"
    metrics = output / "metrics.json"
    if not metrics.is_file():
        source = best.path / CONFIG
        values = from_yaml(source)
        changes = {"evaluate": True, "init_from": best.path / "best", "output": output}
        if values.get("backbone_weights"):
            changes["backbone_weights"] = "none"  # the checkpoint holds the backbone's weights
        run(TrainConfig.from_layers((str(source), values), ("best", changes)))
    return json.loads(metrics.read_text(encoding="utf-8"))["test"]
