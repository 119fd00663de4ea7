"""How far a run is: its epochs so far, the best of them, its log and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from config import TrainConfig
from distributed import on_main, share_weights
from ema import AveragedWeights
from models import load_weights
from run_folder import RunFolder

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

REPORTED = ("srcc", "plcc", "accuracy")  # each epoch, on the terminal and to NNI
# What training keeps between steps besides the network, by name.
Training = Mapping[str, torch.optim.Optimizer | torch.amp.GradScaler | AveragedWeights]


@dataclass
class Progress:
    """How far a run is, besides its tensors; saved with every checkpoint."""

    epoch: int = 0  # last finished epoch
    step: int = 0  # finished steps of the next one
    loss_sum: float = 0.0  # over their images
    best_epoch: int = 0
    best_srcc: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, row: dict[str, float]) -> None:
        """Take in an epoch; an undefined SRCC (constant scores) is worse than any other."""
        self.epoch, self.step, self.loss_sum = int(row["epoch"]), 0, 0.0
        self.history.append(row)
        rank = -math.inf if math.isnan(row["srcc"]) else row["srcc"]
        if self.best_epoch == 0 or rank > self.best_srcc:
            self.best_epoch, self.best_srcc = self.epoch, rank

    def save(
        self, run: RunFolder, model: nn.Module, training: Training, extra: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint of `model`, the network that is evaluated: with --ema-decay the
        averaged weights (what the steps change is in `training`). `extra` goes into config.json."""
        state = {name: part.state_dict() for name, part in training.items()}
        on_main(
            lambda: run.save_epoch(
                self.epoch,
                model,
                extra,
                {**asdict(self), **state},
                best_epoch=self.best_epoch,
                step=self.step,
            )
        )

    @classmethod
    def restore(cls, run: RunFolder, model: nn.Module, training: Training) -> Progress:
        """Put the last checkpoint's tensors in place; a fresh `Progress` before the first one."""
        state = on_main(run.load_state)
        if state is None:
            return cls()
        load_from(run, "last", model)
        for name, part in training.items():
            part.load_state_dict(state.pop(name))
        progress = cls(**state)
        on_main(lambda: run.link_best(progress.best_epoch))
        if progress.history:  # the kill may have come before the last epoch was written
            on_main(lambda: write_history(run, progress))
        steps = f" and {progress.step} steps" if progress.step else ""
        print(f"resuming after epoch {progress.epoch}{steps}")
        return progress


def write_history(run: RunFolder, progress: Progress) -> None:
    """epochs.csv: a line an epoch."""
    rows = [list(row.values()) for row in progress.history]
    run.write_csv("epochs.csv", list(progress.history[0]), rows)


def load_from(run: RunFolder, link: str, model: nn.Module) -> None:
    """Load the weights of `last` or `best`; only rank 0 needs to see the run folder."""
    on_main(lambda: load_weights(model, run.path / link))
    share_weights(model)


def log_epoch(
    config: TrainConfig, run: RunFolder, progress: Progress, writer: SummaryWriter | None
) -> None:
    """One line on the terminal, one in epochs.csv, one point on every TensorBoard curve."""
    row = progress.history[-1]
    numbers = "  ".join(f"{name} {row[name]:.3f}" for name in REPORTED)
    share = row["dead_color_points"]  # nan: a head without color spaces
    dead = "" if math.isnan(share) else f"  dead color points {share:.0%}"
    best = "  (best so far)" if progress.best_epoch == progress.epoch else ""
    print(
        f"epoch {progress.epoch}/{config.epochs}  loss {row['train_loss']:.5f}  {numbers}"
        f"{dead}  {row['seconds']:.1f} s{best}",
        flush=True,
    )
    dead_before = any(past["dead_color_points"] > 0.5 for past in progress.history[:-1])
    if share > 0.5 and not dead_before:
        print(
            "warning: more than half of the color points lie in no color space and get no gradient;"
            " train with --color-point-range unit"
        )
    write_history(run, progress)
    if writer:
        for name, value in row.items():
            if not math.isnan(value):  # undefined: no color spaces, constant scores
                writer.add_scalar(name, value, progress.epoch)
        writer.flush()
