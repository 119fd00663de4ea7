"""Finished trials, and which row of the paper's tables each of them repeats.

A trial belongs to a table if NNI chose for it exactly what the table varies and the seed, and to a
row if its data set, targets and network are the row's. Nothing goes by names, so that experiments
that nnictl started count as those of run.py do.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import FIELDS, TrainConfig
from config_layers import CONFIG, from_yaml
from errors import UserError
from models.options import ModelConfig, resolve
from nni_best import Finished, finished_trials
from reproduce.published import METRICS, PUBLISHED_NETWORK, Row, Table

# Keys that trials of one row may differ in: what a row is told by, and what changes nothing learnt.
APART = {name for name, spec in FIELDS.items() if spec.metadata["free_on_resume"]} - {"epochs"}
APART |= {"seed", "seeds", "targets", "data_root", "allow_partial", *PUBLISHED_NETWORK}


@dataclass(frozen=True)
class Trial:
    """A finished training, scored on the test split."""

    config: TrainConfig
    network: ModelConfig
    parameters: Mapping[str, Any]  # chosen by NNI
    metrics: Mapping[str, float]  # `METRICS` of the reported target, test split; nan: undefined
    hours: float  # of training and validation
    written: float  # when, in seconds since 1970

    @classmethod
    def read(cls, finished: Finished) -> Trial:
        """From its run folder. Raises `UserError` where that is no run of today's train_nni.py."""
        path = finished.path
        config = TrainConfig.from_layers((str(path / CONFIG), from_yaml(path / CONFIG)))
        targets = finished.metrics["test"]["targets"]
        reported = targets[finished.metrics["target"]]
        with (path / "epochs.csv").open(newline="", encoding="utf-8") as file:
            seconds = sum(float(row["seconds"]) for row in csv.DictReader(file))
        return cls(
            config=config,
            network=resolve(
                config.model, config.variant, config.recipe, targets, config.model_options
            ),
            parameters=finished.parameters,
            metrics={name: _number(reported[name]["value"]) for name in METRICS},
            hours=seconds / 3600,
            written=(path / "metrics.json").stat().st_mtime,
        )

    def repeats(self, table: Table, row: Row) -> bool:
        """Whether it is a run of `row`, on the table's data set or on the sample."""
        dataset = self.config.dataset
        if dataset not in (table.dataset, "sample"):
            return False
        own = {name: getattr(self.network, name) for name in (*PUBLISHED_NETWORK, "targets")}
        chosen = {*table.varied, "seed"}
        return set(self.parameters) == chosen and own == table.settings(row, dataset)

    @property
    def setup(self) -> str:
        """What trials must have in common to be averaged: keys and values, as JSON."""
        values = {k: v for k, v in self.config.to_dict().items() if k not in APART}
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """The trials of one row and one setup, each with a seed of its own."""

    setup: str
    trials: Sequence[Trial]

    def mean(self, metric: str) -> float:
        """Over the seeds; nan if it is undefined (constant scores) for any."""
        return float(np.mean([trial.metrics[metric] for trial in self.trials]))

    def deviation(self, metric: str) -> float:
        """Standard deviation (n - 1) over the seeds; nan for one."""
        values = [trial.metrics[metric] for trial in self.trials]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def hours(self) -> float:
        """Of all trials together."""
        return sum(trial.hours for trial in self.trials)


def read_trials(runs: Path) -> list[Trial]:
    """The finished trials of all experiments below `runs` (runs/nni/EXPERIMENT/TRIAL) that were
    scored on the test split, oldest first. Raises `UserError` if there is no such folder."""
    if not runs.is_dir():
        raise UserError(f"no folder of experiments at {runs}: reproduce/run.py starts some")
    finished = [trial for folder in sorted(runs.iterdir()) for trial in finished_trials(folder)]
    trials = [Trial.read(trial) for trial in finished if "test" in trial.metrics]
    return sorted(trials, key=lambda trial: trial.written)


def results_of(trials: Sequence[Trial], table: Table, row: Row) -> list[Result]:
    """The trials that repeat `row`, by setup; the newest of those with the same seed."""
    by_setup: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        if trial.repeats(table, row):
            by_setup.setdefault(trial.setup, {})[trial.config.seed] = trial
    return [Result(setup, list(by_seed.values())) for setup, by_seed in sorted(by_setup.items())]


def on_sample(setup: str) -> bool:
    """Whether it is on the built-in sample, and so says nothing of the paper."""
    return json.loads(setup)["dataset"] == "sample"


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # JSON knows no nan
