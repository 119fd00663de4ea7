"""The released checkpoints, scored again and compared with the numbers in their file names.

    e_30_ICAA17K_multi_tacc0.9622_srcc0.8811_tlcc0.8981.pth
    e_3_SPAQ_vacc0.8506_srcc0.7686vlcc0.7909.pth

The released code averages interest points and gate over a batch, so its scores depend on the order
of the test split (that of the CSV, not shuffled; the last batch is smaller) and on the batch size,
which the file name does not tell: the published one of training (16 and 32) is assumed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import TrainConfig
from errors import UserError
from models.checkpoint_files import read_state_dict
from models.loading import recognise
from train_nni import place, run

RELEASED_NAME = re.compile(
    r"e_(?P<epoch>\d+)_(?P<dataset>ICAA17K|SPAQ)_.*?acc(?P<accuracy>\d\.\d+)"
    r"_srcc(?P<srcc>\d\.\d+)_?[tv]lcc(?P<plcc>\d\.\d+)\.pth"
)
PUBLISHED_BATCH = {"icaa17k": 16, "spaq": 32}  # of training, as released


@dataclass(frozen=True)
class ReleasedFile:
    """A released checkpoint and what its name says of its test split."""

    path: Path
    dataset: str
    published: Mapping[str, float]  # srcc, plcc, accuracy

    @classmethod
    def at(cls, path: Path) -> ReleasedFile | None:
        """None where the name is not one of the released kind."""
        match = RELEASED_NAME.fullmatch(path.name)
        if match is None:
            return None
        published = {metric: float(match[metric]) for metric in ("srcc", "plcc", "accuracy")}
        return cls(path, match["dataset"].lower(), published)


def find_released(folder: Path) -> list[ReleasedFile]:
    """The released checkpoints below `folder`. Raises `UserError` if there are none."""
    found = [ReleasedFile.at(path) for path in sorted(folder.rglob("*.pth"))]
    files = [file for file in found if file is not None]
    if not files:
        raise UserError(
            f"no released checkpoint below {folder}: their names, which hold the published numbers,"
            " look like e_30_ICAA17K_multi_tacc0.9622_srcc0.8811_tlcc0.8981.pth"
        )
    return files


def evaluate(
    file: ReleasedFile, output: Path, given: Mapping[str, Any], *, batch_size: int | None = None
) -> None:
    """Score the test split twice, with points averaged over batches and with each image's own.

    Run folders are `output`/STEM/batch-SIZE and `output`/STEM/image; earlier ones give way.
    given: more keys of train_nni.py, such as `data_root`. batch_size: instead of the published one.
    Raises `UserError` for weights that are not a network for the file's data set.
    """
    network = recognise(read_state_dict(file.path)[0], file.path)
    if network.variant != file.dataset:
        raise UserError(f"{file.path} holds a network for {network.variant}: is its name right?")
    size = batch_size or PUBLISHED_BATCH[file.dataset]
    for pooling, name in (("batch", f"batch-{size}"), ("image", "image")):
        values = {
            "evaluate": True,
            "init_from": file.path,
            "dataset": file.dataset,
            "model": network.name,
            "recipe": "released",
            "targets": network.targets,
            "point_pooling": pooling,
            "batch_size": size,
            "eval_batch_size": size,
            "baselines": False,
            "output": output / file.path.stem / name,
            "overwrite": True,
        }
        run(place(TrainConfig.from_layers(("released", {**values, **given})), trial=None))


@dataclass(frozen=True)
class Evaluation:
    """A released checkpoint's metrics on the test split, and those in its name."""

    file: ReleasedFile
    scored: str  # "batch-16", "image"
    images: int
    measured: Mapping[str, float | None]  # as `file.published`; None: undefined


def read_evaluations(folder: Path) -> list[Evaluation]:
    """What `evaluate` left in `folder`; nothing where there is no such folder."""
    evaluations = []
    for path in sorted(folder.glob("*/*/metrics.json")):
        file = ReleasedFile.at(Path(f"{path.parent.parent.name}.pth"))
        metrics = json.loads(path.read_text(encoding="utf-8"))
        reported = metrics["test"]["targets"][metrics["target"]]
        measured = {metric: reported[metric]["value"] for metric in file.published}
        evaluations.append(Evaluation(file, path.parent.name, metrics["test"]["images"], measured))
    return evaluations
