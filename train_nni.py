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

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from color_measures import measure_baselines
from config import TrainConfig
from config_layers import CONFIG, resolve_config
from distributed import (
    largest,
    local_device,
    on_main,
    parallel,
    process_group,
    rank,
    share_weights,
    world,
)
from ema import AveragedWeights
from errors import UserError, run_cli
from loops import Training, confidence_weights, predict, train_epoch
from losses import Objective
from nni_best import show_best
from nni_trial import Trial, current_trial
from preemption import EXIT_CODE, Preempted, stop_request
from progress import Progress, load_from, log_epoch
from results import Scored, checkpoint_extra, format_repeats, write_results
from run_folder import RunFolder, check_free, default_folder, open_folder
from setting import Setting, build_loader, build_network, build_splits
from util import build_optimizer, keep_freed_memory, lr_factor, pick_device

Report = Callable[[Mapping[str, float]], None]  # gets each epoch's row


# ------------------------------------------------------------------------------- a run


def fit(setting: Setting, model: nn.Module, run: RunFolder, report: Report | None) -> Progress:
    """Train from the last checkpoint of `run`, or from the start; a checkpoint every epoch.

    Raises `Preempted`, after one more checkpoint, when a signal asked to stop.
    """
    config, device = setting.config, setting.device
    loader, val_loader = (build_loader(setting, s, model.config) for s in ("train", "val"))
    optimizer = build_optimizer(config, model)
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    average = AveragedWeights(model, config.ema_decay) if config.ema_decay else None
    kept = {"optimizer": optimizer, "scaler": scaler} | ({"average": average} if average else {})
    evaluated = average.network if average else model  # evaluated, and saved as the weights
    progress = Progress.restore(run, evaluated, kept)
    if config.compile:  # not earlier: the average is a copy of the network
        model.compile()
        if average:
            average.network.compile()
    training = Training(
        model,
        parallel(model, device),
        loader,
        optimizer,
        scaler,
        Objective(config.loss, config.plcc_weight, config.rank_weight),
        confidence_weights(setting),
        average,
    )
    extra = checkpoint_extra(setting.splits["train"])
    with run.tensorboard(first_epoch=progress.epoch + 1) as writer, stop_request() as stop:
        while progress.epoch < config.epochs:
            started = time.perf_counter()
            train_epoch(setting, training, progress, stop)
            if progress.step < loader.batch_sampler.steps:
                progress.save(run, evaluated, kept, extra)
                raise Preempted
            epoch = progress.epoch + 1
            share_weights(evaluated)  # running averages are each process's own
            scores, dead = predict(setting, evaluated, val_loader, f"epoch {epoch}, val")
            row = {
                "epoch": epoch,
                "lr": config.lr * lr_factor(config, epoch - 0.5 / loader.batch_sampler.steps),
                "train_loss": progress.loss_sum / len(loader.dataset),
                **Scored.from_unit(setting.splits["val"], scores).metrics(),
                "dead_color_points": dead,
                "seconds": time.perf_counter() - started,
            }
            progress.add(row)
            progress.save(run, evaluated, kept, extra)
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
        if config.evaluate and config.compile:
            model.compile()
        if not config.evaluate:
            progress = fit(setting, model, folder, report)
            load_from(folder, "best", model)
        scored = {}
        for split in splits_to_score(config):
            loader = build_loader(setting, split, model.config)
            scores, _ = predict(setting, model, loader, split)
            scored[split] = Scored.from_unit(setting.splits[split], scores)
        if config.baselines and "test" in scored:
            baselines = on_main(lambda: measure_baselines(setting.splits["test"]))
            scored["test"] = replace(scored["test"], baselines=baselines)
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
