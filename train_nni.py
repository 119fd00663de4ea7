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
    python train_nni.py --resume --output runs/x
    python train_nni.py --seeds 0,1,2

Tune with NNI (every hyperparameter may be a key of search_space.json):
    nnictl create --config config.yml -p 8999

All flags: --help; the same keys in a YAML file: --config FILE.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from config import TrainConfig
from config_layers import CONFIG, resolve_config
from dataset import ColorDataset, data_spec_from, make_loader
from errors import UserError, run_cli
from labels import Labels, drop_broken, load_splits, split_by_score
from models import build_model, dead_color_points, load_weights
from nni_trial import nni_metrics, nni_trial, trial_folder
from progress import Progress, log_epoch
from results import Scored, checkpoint_extra, format_repeats, write_results
from run_folder import RunFolder, check_free, default_folder
from util import (
    LOSSES,
    autocast,
    build_optimizer,
    epoch_seed,
    lr_factor,
    pick_device,
    progress_bar,
    seed_everything,
    to_device,
)

CHECK_EVERY = 50  # steps between looks at the loss; a look waits for the device
Report = Callable[[Mapping[str, float]], None]  # gets each epoch's row


@dataclass(frozen=True)
class Setting:
    """What a run needs besides the network: settled before anything is written."""

    config: TrainConfig
    device: torch.device
    splits: dict[str, Labels]  # train, val and test; with protocol paper val is the test split


# ------------------------------------------------------------------------------- setup


def build_splits(config: TrainConfig) -> dict[str, Labels]:
    """Labels of train, val and test. Raises `UserError` for bad data.

    Where there is no test split, one is carved from train with seed 0, the same for all runs. With
    --protocol paper val is the test split. With --evaluate, --test-csv alone will do.
    """
    test_alone = config.evaluate and config.test_csv is not None and config.train_csv is None
    if test_alone:
        config = replace(config, train_csv=config.test_csv, test_csv=None)
    spec = data_spec_from(Namespace(**vars(config)))
    splits = load_splits(replace(spec, require_images=not config.skip_broken))
    if config.skip_broken:
        for name, labels in splits.items():
            splits[name], broken = drop_broken(labels)
            print(f"{name}: {len(broken)} of {len(labels)} images left out as broken")
            for image in broken:
                print(f"  {image.where}: {image.reason}")
    train, test = splits["train"], splits["train"] if test_alone else splits.get("test")
    if test is None:
        train, test = split_by_score(train, config.test_fraction, seed=0)
        test = replace(test, split="test")
    if config.protocol == "paper" or config.evaluate:
        return {"train": train, "val": test, "test": test}
    train, val = split_by_score(train, config.val_fraction, config.seed)
    return {"train": train, "val": val, "test": test}


def build_network(config: TrainConfig, targets: Sequence[str]) -> nn.Module:
    """The network with its starting weights: those of --init-from, or seeded random ones."""
    seed_everything(config.seed)
    model = build_model(
        config.model,
        config.variant,
        recipe=config.recipe,
        targets=targets,
        **config.model_options,
    )
    if config.init_from is not None:
        report = load_weights(model, config.init_from, allow_partial=config.allow_partial)
        print(f"{config.init_from}: {report}")
        if config.evaluate and report.missing:
            raise UserError(
                f"{config.init_from} lacks {', '.join(report.missing[:3])} of {config.model} for "
                f"the targets {', '.join(targets)}: nothing to evaluate; are the targets others?"
            )
    return model


def build_loader(setting: Setting, split: str, image_size: int) -> DataLoader:
    """Batches (images B x 3 x S x S, unit targets B x T, indices B) of a split."""
    config, train = setting.config, split == "train"
    dataset = ColorDataset(
        setting.splits[split],
        image_size=image_size,
        resize=round(config.resize_ratio * image_size),
        train=train,
        seed=config.seed,
    )
    return make_loader(
        dataset,
        batch_size=config.batch_size,
        shuffle=train,
        seed=config.seed,
        workers=config.workers,
        device=setting.device,
    )


# ------------------------------------------------------------------------------- loops


def train_one_epoch(
    setting: Setting,
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    epoch: int,
) -> float:
    """One pass over the training images; the mean loss an image.

    Raises `UserError` at a loss that is not finite, naming epoch and step.
    """
    config, device = setting.config, setting.device
    loss_function = LOSSES[config.loss]
    model.train()
    # Drop path depends on (seed, epoch) alone, so that a resumed run repeats it.
    seed_everything(epoch_seed(config.seed, epoch))
    loader.dataset.set_epoch(epoch)
    total = torch.zeros((), device=device)
    images_seen = 0
    first_bad = torch.tensor(-1, device=device)  # step of the first loss that is not finite
    for step, (images, target, _) in enumerate(progress_bar(loader, f"epoch {epoch}")):
        factor = lr_factor(config, epoch - 1 + (step + 0.5) / len(loader))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        target = target.to(device, non_blocking=True)
        with autocast(config, device):
            prediction = model(to_device(images, model, device))
        loss = loss_function(prediction, target)

        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if config.grad_clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        scaler.step(optimizer)
        scaler.update()

        # Sums stay on the device: reading one every step would make the host wait for it.
        total += loss.detach() * len(images)
        images_seen += len(images)
        first_bad = torch.where((first_bad < 0) & ~loss.detach().isfinite(), step, first_bad)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == len(loader):
            check_finite(int(first_bad), epoch, len(loader))
    return float(total) / images_seen


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
    scores, indices, dead = [], [], []
    for images, _, index in progress_bar(loader, name):
        with autocast(setting.config, setting.device):
            features = model.forward_features(to_device(images, model, setting.device))
            batch_scores, _, weights = model.head(features)
        scores.append(batch_scores.float())
        indices.append(index)
        if weights is not None:
            share = dead_color_points(weights, model.config.num_color_points)
            dead.append(share * len(images))
    result = torch.cat(scores).cpu().double().numpy()
    if not np.isfinite(result).all():
        raise UserError(f"{name}: the network's scores are not finite numbers; lower --lr")
    order = torch.cat(indices).argsort().numpy()
    share = float(torch.stack(dead).sum()) / len(result) if dead else math.nan
    return result[order], share


# ------------------------------------------------------------------------------- a run


def fit(setting: Setting, model: nn.Module, run: RunFolder, report: Report | None) -> Progress:
    """Train from the last checkpoint of `run`, or from the start; a checkpoint every epoch."""
    config, device = setting.config, setting.device
    size = model.config.image_size
    loaders = {split: build_loader(setting, split, size) for split in ("train", "val")}
    optimizer = build_optimizer(config, model, fused=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    training = {"optimizer": optimizer, "scaler": scaler}
    progress = Progress.restore(run, model, training)
    extra = checkpoint_extra(setting.splits["train"])
    with run.tensorboard(first_epoch=progress.epoch + 1) as writer:
        for epoch in range(progress.epoch + 1, config.epochs + 1):
            started = time.perf_counter()
            loss = train_one_epoch(setting, model, loaders["train"], optimizer, scaler, epoch)
            scores, dead = predict(setting, model, loaders["val"], f"epoch {epoch}, val")
            row = {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"],
                "train_loss": loss,
                **Scored.from_unit(setting.splits["val"], scores).metrics(),
                "dead_color_points": dead,
                "seconds": time.perf_counter() - started,
            }
            progress.add(row)
            progress.save(run, model, training, extra)
            log_epoch(config, run, progress, writer)
            if report:
                report(row)
    return progress


def run(config: TrainConfig, report: Report | None = None) -> tuple[Progress | None, dict]:
    """One training (or, with --evaluate, none), then the test split once, with the best weights.

    Returns the progress and {split: summary of metrics}.
    """
    device = pick_device(config.device)
    if config.amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU: use bf16 or off on the CPU")
    setting = Setting(config, device, build_splits(config))
    model = build_network(config, setting.splits["train"].targets).to(device)
    sizes = ", ".join(f"{name} {len(labels):,}" for name, labels in setting.splits.items())
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{config.dataset}: {sizes} images; {config.model}: {parameters:.2f} M on {device}")
    if config.protocol == "paper" and not config.evaluate:
        print("PROTOCOL PAPER: the epoch is selected on the test split, as the paper's code did")

    if config.resume and (config.output / CONFIG).is_file():
        folder = RunFolder.reopen(config.output, config.to_dict())
    else:
        folder = RunFolder.create(config.output, config.to_dict(), device)
    with folder.dropped_if_useless():
        progress = None
        if not config.evaluate:
            progress = fit(setting, model, folder, report)
            load_weights(model, folder.path / "best")
        splits = ("val", "test") if progress and config.protocol == "holdout" else ("test",)
        scored = {}
        for split in splits:
            loader = build_loader(setting, split, model.config.image_size)
            scores, _ = predict(setting, model, loader, split)
            scored[split] = Scored.from_unit(setting.splits[split], scores)
        return progress, write_results(folder, config, scored, progress)


def run_seeds(config: TrainConfig) -> None:
    """Repeat for each of --seeds in a subfolder; print and write mean and standard deviation."""
    if config.resume:
        folder = RunFolder.reopen(config.output, config.to_dict())
    else:
        folder = RunFolder.create(config.output, config.to_dict(), pick_device(config.device))
    with folder.dropped_if_useless():
        repeats = []
        for seed in config.seeds:
            print(f"\n=== seed {seed}")
            output = folder.path / f"seed-{seed}"
            repeats.append(run(replace(config, seed=seed, seeds=(), output=output))[1])
        folder.write_json("metrics.json", dict(zip(map(str, config.seeds), repeats, strict=True)))
        target = list(repeats[0]["test"]["targets"])[-1]
        print("\n" + format_repeats(repeats, target=target))
        print(f"\nrun folder: {folder.path}")


# ------------------------------------------------------------------------------- NNI, main


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate as the command line says."""
    nni = nni_trial()
    parameters = nni.get_next_parameter() if nni else {}
    config = resolve_config(sys.argv[1:] if argv is None else argv, parameters)
    if config.output is None:
        output = trial_folder(nni) if nni else default_folder(config)
        config = replace(config, output=output)
    if not config.resume:
        check_free(config.output)
    if config.seeds and nni:
        raise UserError("--seeds within an NNI trial: let NNI run a trial for each seed")
    if config.seeds:
        run_seeds(config)
        return 0
    if nni is None:
        run(config)
        return 0
    print(f"run folder: {config.output}", flush=True)
    progress, _ = run(config, lambda row: nni.report_intermediate_result(nni_metrics(row)))
    best = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
    nni.report_final_result(nni_metrics(best))
    return 0


if __name__ == "__main__":
    run_cli(main)
