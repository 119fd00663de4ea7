"""Being a trial of an NNI experiment; without one, NNI need not even be installed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from progress import REPORTED


def nni_trial() -> ModuleType | None:
    """NNI's Python package if NNI started this process as a trial, else None."""
    if "NNI_PLATFORM" not in os.environ:
        return None
    import nni

    return nni


def nni_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """What NNI gets of an epoch: `default`, which it maximizes, is SRCC on validation.

    An undefined correlation (constant scores) is reported as -1, the worst there is.
    """
    values = {name: -1.0 if math.isnan(row[name]) else row[name] for name in REPORTED}
    return {"default": values["srcc"], "plcc": values["plcc"], "accuracy": values["accuracy"]}


def trial_folder(nni: ModuleType) -> Path:
    """The run folder of this trial, where --output names none."""
    return Path("runs") / "nni" / nni.get_experiment_id() / nni.get_trial_id()
