"""Train, evaluate and tune a network on image color aesthetics.

The built-in sample data set, on whatever device there is:
    python train_nni.py

The paper's data sets with its published hyperparameters (dataset.py verify checks the files first):
    python train_nni.py --dataset icaa17k --data-root ICAA17K --init-from ava.pth
    python train_nni.py --dataset spaq --data-root SPAQ --init-from ava.pth
    python train_nni.py --dataset ava --data-root AVA --init-from dat_base_in1k_224.pth

Your own photographs, from any CSV:
    python train_nni.py --dataset csv --train-csv train.csv --test-csv test.csv \
        --image-column file --score-columns beauty --score-range 1,7

Score a test split without training; continue a run that was stopped; repeat with other seeds:
    python train_nni.py --evaluate --init-from runs/x/best
    python train_nni.py --resume --output runs/x      (auto: start it, if there is none)
    python train_nni.py --seeds 0,1,2

Tune with NNI (every hyperparameter may be a key of search_space.json), then score the best trial:
    nnictl create --config config.yml -p 8999
    python train_nni.py best --experiment ID

Several GPUs; several machines (distributed.py); --batch-size counts the images of all of them:
    torchrun --nproc_per_node=4 train_nni.py --dataset icaa17k ...

All flags: --help; in a YAML file: --config FILE. Exit code 0: done; 2: bad input; 75: stopped by
SIGTERM or Ctrl-C, checkpoint saved, --resume goes on there.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from config import TrainConfig
from config_layers import CONFIG, resolve_config
from distributed import (
    gathered,
    largest,
    local_device,
    on_main,
    parallel,
    process_group,
    rank,
    summed,
    world,
)
from errors import UserError, run_cli
from models import dead_color_points
from nni_best import show_best
from nni_trial import Trial, current_trial
from preemption import EXIT_CODE, Preempted, StopRequest, stop_request
from progress import Progress, load_from, log_epoch
from results import Scored, checkpoint_extra, format_repeats, write_results
from run_folder import RunFolder, check_free, default_folder, open_folder
from setting import Setting, build_loader, build_network, build_splits
from util import (
    LOSSES,
    autocast,
    build_optimizer,
    keep_freed_memory,
    lr_factor,
    pick_device,
    progress_bar,
    seed_everything,
    step_seed,
    to_device,
)

CHECK_EVERY = 50  # steps between looks at the loss; a look waits for the device
Report = Callable[[Mapping[str, float]], None]  # gets each epoch's row


@dataclass(frozen=True)
class Training:
    """What takes part in the steps."""

    model: nn.Module
    network: nn.Module  # the same, its gradients averaged over the processes if there are several
    loader: DataLoader
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


# ------------------------------------------------------------------------------- loops


def train_epoch(
    setting: Setting, training: Training, progress: Progress, stop: StopRequest
) -> None:
    """Steps of the epoch after `progress.epoch`, from `progress.step` to its end or a stop request.

    Leaves in `progress` the steps that are done and the sum of their images' losses. Raises
    `UserError` at a loss that is not finite, naming epoch and step.
    """
    config, device, model = setting.config, setting.device, training.model
    optimizer, scaler, batches = training.optimizer, training.scaler, training.loader.batch_sampler
    loss_function = LOSSES[config.loss]
    epoch, steps = progress.epoch + 1, batches.steps
    training.network.train()
    training.loader.dataset.set_epoch(epoch)
    batches.first = first = progress.step
    total = torch.tensor(progress.loss_sum, device=device)
    first_bad = torch.tensor(-1, device=device)  # step of the first loss that is not finite
    bar = progress_bar(training.loader, f"epoch {epoch}")
    for step, (images, target, _) in enumerate(bar, start=first):
        # Drop path depends on these four alone, so that a resumed run repeats it.
        seed_everything(step_seed(config.seed, epoch, step, rank()))
        factor = lr_factor(config, epoch - 1 + (step + 0.5) / steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        target = target.to(device, non_blocking=True)
        with autocast(config, device):
            prediction = training.network(to_device(images, model, device))
        loss = loss_function(prediction, target) * batches.weight(step)

        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if config.grad_clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        scaler.step(optimizer)
        scaler.update()

        # Sums stay on the device: reading one every step would make the host wait for it.
        total += loss.detach() * batches.size(step)
        first_bad = torch.where((first_bad < 0) & ~loss.detach().isfinite(), step, first_bad)
        progress.step = step + 1
        stopping = largest(int(bool(stop))) > 0
        if progress.step % CHECK_EVERY == 0 or progress.step == steps or stopping:
            check_finite(largest(int(first_bad)), epoch, steps)
        if stopping:
            break
    progress.loss_sum = float(summed(total)) / world()


def check_finite(first_bad: int, epoch: int, steps: int) -> None:
    """Raise `UserError` if `first_bad`, the step of a loss that is not finite, is not -1."""
    if first_bad >= 0:
        raise UserError(
            f"the loss is not finite at epoch {epoch}, step {first_bad + 1} of {steps}: lower --lr,"
            " set --grad-clip or use --amp off; the checkpoints of earlier epochs are kept"
        )


@torch.inference_mode()
def predict(
    setting: Setting, model: nn.Module, loader: DataLoader, name: str
) -> tuple[np.ndarray, float]:
    """Unit scores N x T in the split's order, and the share of dead color points.

    The share is nan for a head without color spaces. Raises `UserError` at a score that is not
    finite.
    """
    model.eval()
    count, targets = len(loader.dataset), loader.dataset.targets.shape[1]
    # Of several processes one may have no batch.
    scores = [torch.empty(0, targets, device=setting.device)]
    indices = [torch.empty(0, dtype=torch.int64)]
    dead = torch.zeros((), device=setting.device)
    for images, _, index in progress_bar(loader, name):
        with autocast(setting.config, setting.device):
            features = model.forward_features(to_device(images, model, setting.device))
            batch_scores, _, weights = model.head(features)
        scores.append(batch_scores.float())
        indices.append(index)
        if weights is not None:
            dead += dead_color_points(weights, model.config.num_color_points) * len(images)
    result = gathered(torch.cat(scores), torch.cat(indices), count).double().numpy()
    if not np.isfinite(result).all():
        raise UserError(f"{name}: the network's scores are not finite numbers; lower --lr")
    share = float(summed(dead)) / count if model.config.color_spaces else math.nan
    return result, share


# ------------------------------------------------------------------------------- a run


def fit(setting: Setting, model: nn.Module, run: RunFolder, report: Report | None) -> Progress:
    """Train from the last checkpoint of `run`, or from the start; a checkpoint every epoch.

    Raises `Preempted`, after one more checkpoint, when a signal asked to stop.
    """
    config, device = setting.config, setting.device
    size = model.config.image_size
    loader, val_loader = (build_loader(setting, split, size) for split in ("train", "val"))
    optimizer = build_optimizer(config, model, fused=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    kept = {"optimizer": optimizer, "scaler": scaler}
    progress = Progress.restore(run, model, kept)
    training = Training(model, parallel(model, device), loader, optimizer, scaler)
    extra = checkpoint_extra(setting.splits["train"])
    with run.tensorboard(first_epoch=progress.epoch + 1) as writer, stop_request() as stop:
        while progress.epoch < config.epochs:
            started = time.perf_counter()
            train_epoch(setting, training, progress, stop)
            if progress.step < loader.batch_sampler.steps:
                progress.save(run, model, kept, extra)
                raise Preempted
            epoch = progress.epoch + 1
            scores, dead = predict(setting, model, val_loader, f"epoch {epoch}, val")
            row = {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"],
                "train_loss": progress.loss_sum / len(loader.dataset),
                **Scored.from_unit(setting.splits["val"], scores).metrics(),
                "dead_color_points": dead,
                "seconds": time.perf_counter() - started,
            }
            progress.add(row)
            progress.save(run, model, kept, extra)
            if rank() == 0:
                log_epoch(config, run, progress, writer)
            if report:
                report(row)
            if largest(int(bool(stop))) > 0:
                raise Preempted
    return progress


def run(
    config: TrainConfig,
    report: Report | None = None,
    notes: Mapping[str, Any] | None = None,
) -> tuple[Progress | None, dict]:
    """One training (or, with --evaluate, none), then the test split once, with the best weights.

    `notes` go into the run folder's environment.json. Returns the progress and {split: summary of
    metrics}. Raises `UserError` for bad input, `Preempted` when asked to stop.
    """
    device = local_device(pick_device(config.device))
    keep_freed_memory()
    if config.amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU: use bf16 or off on the CPU")
    if config.batch_size % world():
        raise UserError(
            f"--batch-size {config.batch_size} counts the images of all {world()} processes: give a"
            f" multiple of {world()}"
        )
    setting = Setting(config, device, build_splits(config))
    model = build_network(config, setting.splits["train"].targets).to(device)
    sizes = ", ".join(f"{name} {len(labels):,}" for name, labels in setting.splits.items())
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    of = f", {world()} processes" if world() > 1 else ""
    print(f"{config.dataset}: {sizes} images; {config.model}: {parameters:.2f} M on {device}{of}")
    if config.protocol == "paper" and not config.evaluate:
        print("PROTOCOL PAPER: the epoch is selected on the test split, as the paper's code did")

    folder = on_main(lambda: open_folder(config, device, notes))
    with folder.dropped_if_useless():
        progress = None
        if not config.evaluate:
            progress = fit(setting, model, folder, report)
            load_from(folder, "best", model)
        scored = {}
        for split in splits_to_score(config):
            loader = build_loader(setting, split, model.config.image_size)
            scores, _ = predict(setting, model, loader, split)
            scored[split] = Scored.from_unit(setting.splits[split], scores)
        return progress, on_main(lambda: write_results(folder, config, scored, progress))


def splits_to_score(config: TrainConfig) -> list[str]:
    """What the best weights are scored on at the end, the split that counts last."""
    if config.evaluate or config.protocol == "paper":
        return ["test"]
    return ["val", "test"] if config.score_test else ["val"]


def run_seeds(config: TrainConfig) -> None:
    """Repeat for each of --seeds in a subfolder; print and write mean and standard deviation."""
    device = local_device(pick_device(config.device))
    folder = on_main(lambda: open_folder(config, device))
    with folder.dropped_if_useless():
        repeats = []
        for seed in config.seeds:
            print(f"\n=== seed {seed}")
            output = folder.path / f"seed-{seed}"
            repeats.append(run(replace(config, seed=seed, seeds=(), output=output))[1])
        table = dict(zip(map(str, config.seeds), repeats, strict=True))
        on_main(lambda: folder.write_json("metrics.json", table))
        target = list(list(repeats[0].values())[-1]["targets"])[-1]
        print("\n" + format_repeats(repeats, target=target))
        print(f"\nrun folder: {folder.path}")


# ------------------------------------------------------------------------------- NNI, main


def run_trial(config: TrainConfig, trial: Trial) -> None:
    """One training for NNI, which gets every epoch's metrics, and at the end the best epoch's."""
    print(f"run folder: {config.output}", flush=True)
    on_main(lambda: trial.link(config.output))
    progress, _ = run(config, trial.report, trial.notes)
    trial.finish(next(row for row in progress.history if row["epoch"] == progress.best_epoch))


def place(config: TrainConfig, trial: Trial | None) -> TrainConfig:
    """`config` with its output folder settled. Raises `UserError` where that is in use."""
    if config.output is None:
        output = trial.folder if trial else default_folder(config)
        config = replace(config, output=output)
        if trial and (output / CONFIG).is_file():
            config = replace(config, **trial.again(output))
    if config.overwrite and (config.output / CONFIG).is_file():
        shutil.rmtree(config.output)
    if config.resume == "off":
        check_free(config.output)
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate as the command line says."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["best"]:
        show_best(argv[1:], run)
        return 0
    with process_group():
        trial = current_trial()
        asked = resolve_config(argv, trial.parameters if trial else {})
        config = on_main(lambda: place(asked, trial))
        if config.seeds and trial:
            raise UserError("--seeds within an NNI trial: let NNI run a trial for each seed")
        try:
            if config.seeds:
                run_seeds(config)
            elif trial:
                run_trial(config, trial)
            else:
                run(config)
        except Preempted:
            print(f"\nstopped by a signal; to go on: --resume --output {config.output}", flush=True)
            return trial.stopped() if trial else EXIT_CODE
    return 0


if __name__ == "__main__":
    run_cli(main)
