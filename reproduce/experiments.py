"""The NNI experiment behind each table and curve: `reproduce/NAME.yml`, made to fit this machine.

A `Plan` is such a file with flags changed: those of a scale, of a protocol, of the command line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import TrainConfig
from config_layers import from_command_line, resolve_config
from errors import UserError
from reproduce.published import TABLES
from setting import build_splits

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = tuple(name for table in TABLES for name in table.files)
PROTOCOLS = {
    "paper": {"recipe": "released", "protocol": "paper"},
    "holdout": {"recipe": "ours", "protocol": "holdout"},
}
# On the built-in sample everything is trained from scratch, where the recipe `released` learns
# nothing, within minutes.
SAMPLE = {
    "dataset": "sample",
    "data_root": ROOT / "data" / "sample",
    "init_from": None,
    "model": "delegate_nano",
    **PROTOCOLS["holdout"],
    "epochs": 1,
    "lr": 1e-3,
    "warmup_epochs": 0.3,
    "bootstrap": 0,
    "workers": 0,
    "baselines": False,
}
SAMPLE_SEEDS = (0, 1)

Point = dict[str, Any]  # what one trial gets from NNI


@dataclass(frozen=True)
class Plan:
    """One experiment, ready to be started."""

    name: str
    command: str  # of every trial
    points: tuple[Point, ...]
    values: Mapping[str, Any]  # the experiment file's other contents

    @property
    def prefix(self) -> str:
        """What the ids of experiments with this command and these points begin with."""
        content = json.dumps([self.command, self.points], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}-"

    def nni_config(self, folder: Path, *, gpus: int, concurrency: int) -> dict[str, Any]:
        """NNI's configuration: trials run in `folder`, `concurrency` at a time, a GPU each unless
        there are none."""
        config = dict(self.values) | {
            # The grid's points one by one, so that a subset of seeds is as easy as all of them.
            "searchSpace": {"combine_params": {"_type": "choice", "_value": list(self.points)}},
            "tuner": {"name": "Batch"},
            "trialCommand": self.command,
            "trialCodeDirectory": str(folder),
            "trialConcurrency": concurrency,
            "maxTrialNumber": len(self.points),
        }
        if not gpus:
            del config["trialGpuNumber"]
            config["trainingService"] = {"platform": "local"}
        return config


def grid_points(space: Mapping[str, Any]) -> list[Point]:
    """Every point of a search space of choices; the lines of the Batch tuner's."""
    if "combine_params" in space:
        return space["combine_params"]["_value"]
    values = [choice["_value"] for choice in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def make_plan(
    name: str,
    *,
    scale: str,
    protocol: str | None,
    seeds: Sequence[int] | None,
    changes: Mapping[str, Any],
) -> Plan:
    """The experiment `name` at `scale` (full, sample).

    protocol: a key of `PROTOCOLS`; None: the scale's own. seeds: instead of the scale's own.
    changes: flags of train_nni.py by their keys, which come last. Raises `UserError` for flags and
    values that train_nni.py would refuse.
    """
    values = yaml.safe_load((HERE / f"{name}.yml").read_text(encoding="utf-8"))
    flags = from_command_line(shlex.split(values.pop("trialCommand"))[2:])[1]
    for key in ("data_root", "init_from"):
        flags[key] = ROOT / flags[key]
    points = grid_points(values["searchSpace"])
    if scale == "sample":
        table = next(table for table in TABLES if name in table.files)
        flags |= SAMPLE | dict(table.stand_in)
        seeds = SAMPLE_SEEDS if seeds is None else seeds
    flags |= PROTOCOLS[protocol] if protocol and scale == "full" else {}
    flags |= {"protocol": protocol} if protocol else {}
    flags |= changes
    if seeds is not None:
        networks = [point for point in points if point["seed"] == points[0]["seed"]]
        points = [point | {"seed": seed} for seed in seeds for point in networks]
    arguments = to_flags(flags)
    for point in points:
        resolve_config(arguments, point)
    command = shlex.join([sys.executable, str(ROOT / "train_nni.py"), *arguments])
    return Plan(name, command, tuple(points), values)


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """Keys and values as train_nni.py's command line has them."""
    flags = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            flags += [f"--{name}", "none" if text is None else str(text)]
    return flags


def check_inputs(plan: Plan) -> None:
    """Read the labels and look for the weights, before trials fail one by one for want of them.

    Raises `UserError`.
    """
    config: TrainConfig = resolve_config(shlex.split(plan.command)[2:], plan.points[0])
    if config.init_from is not None and not config.init_from.exists():
        raise UserError(
            f"{plan.name}: no weights at {config.init_from}: python pretrained/fetch.py ava fetches"
            " the AVA body; other weights: --init-from FILE; none (from scratch): --init-from none"
        )
    if not config.skip_broken:  # which would decode every image
        build_splits(config)
