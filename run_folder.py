"""The folder of one run, written so that a kill at any moment leaves it readable and resumable.

    config.yaml         resolved configuration          environment.json  versions, device, command
    epochs.csv          one line per epoch              events.out...     TensorBoard
    best, last          links to checkpoints            metrics.json      final metrics
    epochs/0007/        model.safetensors, config.json (weights and all that rebuilds the network),
                        training_state.pt (optimizer, epoch, history: what --resume needs; with
                        --ema-decay model.safetensors holds the averaged weights, this the others)
    epochs/0007-step-000120/    the same in the middle of epoch 8, of a run that was asked to stop
    predictions.csv     image, label, prediction        scatter.png, learning_curve.png

Files and checkpoints are written under a temporary name, flushed to disk, then renamed into place.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
import yaml
from torch import nn

from config import TrainConfig
from config_layers import CONFIG
from distributed import rank
from errors import UserError
from models import save_model

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

STATE = "training_state.pt"
START = ("resume", "output", "overwrite")  # how a run was started, and no part of its configuration


class RunFolder:
    """A run's folder: `create` a new one or `reopen` one to resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        device: torch.device,
        notes: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make the folder and record configuration, environment and, within it, `notes`.

        Raises `UserError` if `path` is there already, unless as an empty folder.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.write_json("environment.json", environment(device) | dict(notes or {}))
        run.write_config(config)  # last: a folder that has it can be reopened
        return run

    @classmethod
    def reopen(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """The folder of an earlier run, cleared of what a kill may have left half-written.

        `last` is pointed to the newest checkpoint, which a kill may have prevented. `config` is
        recorded: a resumed run may have more epochs. Raises `UserError` if there is no run at
        `path`.
        """
        if not (path / CONFIG).is_file():
            raise UserError(f"cannot resume: {path} holds no run ({CONFIG} is not there)")
        for leftover in [*path.glob(".tmp-*"), *path.glob("epochs/.tmp-*")]:
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        run = cls(path)
        run.write_config(config)
        if checkpoints := sorted(path.glob("epochs/*")):
            run._link("last", checkpoints[-1].name)
        return run

    @contextmanager
    def dropped_if_useless(self) -> Iterator[None]:
        """Remove the folder again if bad input ends the run before its first checkpoint."""
        try:
            yield
        except UserError:
            useful = any(self.path.glob("**/last"))  # also of a subfolder: --seeds
            if rank() == 0 and not useful:
                shutil.rmtree(self.path)
            raise

    # --- files

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration, without `START`."""
        values = {key: value for key, value in config.items() if key not in START}
        self.write_text(CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 file, whole or not at all."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")

    def write_json(self, name: str, values: Any) -> None:
        """Write `values` as JSON; nan is written as null, as the standard knows no nan."""
        self.write_text(name, json.dumps(_without_nan(values), indent=2) + "\n")

    def write_csv(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write a table with one header line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        self.write_text(name, text.getvalue())

    @contextmanager
    def tensorboard(self, first_epoch: int) -> Iterator[SummaryWriter | None]:
        """A TensorBoard writer that hides earlier events from `first_epoch` on.

        None where tensorboardX is not installed, and but for the first of several processes.
        """
        if rank() > 0:
            yield None
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            print("note: tensorboardX is not installed, so no TensorBoard events are written")
            yield None
            return
        with SummaryWriter(str(self.path), purge_step=first_epoch) as writer:
            yield writer

    # --- checkpoints

    def save_epoch(
        self,
        epoch: int,
        model: nn.Module,
        extra: Mapping[str, Any],
        state: Mapping[str, Any],
        *,
        best_epoch: int,
        step: int = 0,
    ) -> None:
        """Write the checkpoint after `step` steps more than `epoch` epochs, point `last` and `best`
        to theirs (none is best before the first epoch ends: 0), drop the others.

        `extra` goes into the checkpoint's config.json, `state` into its training_state.pt. A kill
        between two steps leaves both links on whole checkpoints; `link_best` mends the second.
        """
        name = f"{epoch:04d}" + (f"-step-{step:06d}" if step else "")
        folder = self.path / "epochs" / name
        folder.parent.mkdir(exist_ok=True)
        temporary = folder.with_name(f".tmp-{folder.name}")
        temporary.mkdir()
        save_model(model, temporary, dict(extra))
        torch.save(dict(state), temporary / STATE)
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        temporary.rename(folder)
        _flush(folder.parent)
        self._link("last", name)
        self.link_best(best_epoch)

    def link_best(self, epoch: int) -> None:
        """Point `best` to the checkpoint of `epoch`, unless it is 0; remove those that nothing
        points to."""
        if epoch:
            self._link("best", f"{epoch:04d}")
        linked = {(self.path / link).resolve() for link in ("last", "best")}
        for folder in (self.path / "epochs").iterdir():
            if folder.resolve() not in linked:
                # Renamed first: what has no temporary name is a whole checkpoint, at any moment.
                doomed = folder.rename(folder.with_name(f".tmp-{folder.name}"))
                shutil.rmtree(doomed)

    def load_state(self) -> dict[str, Any] | None:
        """training_state.pt of the `last` checkpoint on the CPU; None before the first one."""
        file = self.path / "last" / STATE
        if not file.is_file():
            return None
        return torch.load(file, map_location="cpu", weights_only=True)

    def _link(self, name: str, checkpoint: str) -> None:
        target = self.path / "epochs" / checkpoint
        if not target.is_dir():
            raise UserError(f"cannot resume: {target}, the checkpoint for {name!r}, is missing")
        temporary = self.path / f".tmp-{name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.relative_to(self.path))
        temporary.replace(self.path / name)
        _flush(self.path)


def open_folder(
    config: TrainConfig, device: torch.device, notes: Mapping[str, Any] | None = None
) -> RunFolder:
    """The run folder: a new one, or with --resume the one that is there."""
    if config.resume != "off" and (config.output / CONFIG).is_file():
        return RunFolder.reopen(config.output, config.to_dict())
    return RunFolder.create(config.output, config.to_dict(), device, notes)


def default_folder(config: TrainConfig) -> Path:
    """The run folder where --output names none."""
    task = "evaluate-" if config.evaluate else ""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{task}{config.dataset}-{config.model}-{time}"


def check_free(path: Path) -> None:
    """Raise `UserError` unless `path` is absent or a folder without a run (what a run left that was
    killed at its very start is none)."""
    leftover = (".tmp-", "environment.json")
    if path.is_dir() and not all(entry.name.startswith(leftover) for entry in path.iterdir()):
        raise UserError(
            f"output folder {path} is not empty: give another --output, or --resume to continue"
            " the run in it"
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"output {path} is a file: give a folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, source revision and command line: what it takes to repeat the run."""
    on_gpu = device.type == "cuda"
    return {
        "command": sys.argv,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "cuda": torch.version.cuda if on_gpu else None,
        "threads": torch.get_num_threads(),
    }


def _git_commit() -> str | None:
    """Commit of this source tree, with `-dirty` if files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _flush(path: Path) -> None:
    """Force a file's or folder's content to disk, so that a rename never outlives its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_nan(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values
