"""What a run needs before it starts: the labels of its splits, its network, its batches."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from config import TrainConfig
from dataset import ColorDataset, data_spec_from, make_loader
from distributed import rank, world
from errors import UserError
from labels import DataSpec, Labels, drop_broken, load_splits, split_by_score
from models import ModelConfig, build_model, load_weights
from prepared import PreparedImages, Transform
from util import seed_everything


@dataclass(frozen=True)
class Setting:
    """What a run needs besides the network: settled before anything is written."""

    config: TrainConfig
    device: torch.device
    splits: dict[str, Labels]  # train, val and test; with protocol paper val is the test split


def has_test_alone(config: TrainConfig) -> bool:
    """Whether --evaluate has got a --test-csv and no --train-csv."""
    return config.evaluate and config.test_csv is not None and config.train_csv is None


def data_spec(config: TrainConfig) -> DataSpec:
    """Where the data set lies and how it is read; a test table alone is read as train."""
    if has_test_alone(config):
        config = replace(config, train_csv=config.test_csv, test_csv=None)
    spec = data_spec_from(Namespace(**vars(config)))
    return replace(spec, confidence_column=config.confidence)


def build_splits(config: TrainConfig) -> dict[str, Labels]:
    """Labels of train, val and test. Raises `UserError` for bad data.

    Where there is no test split, one is carved from train with seed 0, the same for all runs. With
    --protocol paper val is the test split. With --evaluate, --test-csv alone will do.
    """
    test_alone, spec = has_test_alone(config), data_spec(config)
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


def evaluation_batch(config: TrainConfig, network: ModelConfig, device: torch.device) -> int:
    """Images a batch of one process where nothing is learnt: --eval-batch-size.

    By default --batch-size, which belongs to the scores where points are averaged over the batch.
    A GPU does more at a time otherwise: 4 times what a process has of it in training.
    """
    if config.eval_batch_size is not None:
        return config.eval_batch_size
    if device.type == "cpu" or network.point_pooling == "batch":
        return config.batch_size
    return 4 * config.batch_size // world()


def find_prepared(
    config: TrainConfig, labels: Labels, transform: Transform
) -> PreparedImages | None:
    """The prepared images of a split as --prepared says, or None: decode the originals.

    Prints where they are, or why those there are will not do. Raises `UserError` if the folder that
    --prepared names lacks any of them.
    """
    if config.prepared == "off":
        return None
    root = data_spec(config).data_root
    folder = root / "prepared" if config.prepared == "auto" else Path(config.prepared)
    place = folder / transform.folder
    if config.prepared == "auto" and not place.is_dir():
        return None
    prepared = PreparedImages(folder, transform, labels.paths, root)
    if not prepared.absent:
        print(f"{labels.split}: images from {place}")
        return prepared
    lack = (
        f"{place} lacks {len(prepared.absent)} of {len(labels)} images of {labels.split}, or they "
        f"have changed since (first: {labels.where(prepared.absent[0])}); "
        f"`python dataset.py prepare {config.dataset}` brings it up to date (with this run's data "
        "flags; --size, --resize-ratio, --aspect and --draft as the network and this run have them)"
    )
    if config.prepared != "auto":
        raise UserError(lack)
    print(f"{labels.split}: decodes the originals: {lack}")
    return None


def build_loader(setting: Setting, split: str, network: ModelConfig) -> DataLoader:
    """Batches of a split as `network` takes them, see `ColorDataset`; this process's part of them,
    if there are several."""
    config, labels, train = setting.config, setting.splits[split], split == "train"
    size, ratio = network.image_size, config.resize_ratio
    transform = Transform.of(size, ratio, train=train, aspect=network.aspect, draft=config.draft)
    prepared = find_prepared(config, labels, transform)
    dataset = ColorDataset(
        labels,
        image_size=size,
        transform=transform,
        train=train,
        seed=config.seed,
        prepared=prepared,
    )
    if prepared is None and dataset.cache is None:
        print(f"{split}: decodes {len(labels):,} images each time; dataset.py prepare does it once")
    evaluation = evaluation_batch(config, network, setting.device)
    batch_size = config.batch_size if train else evaluation
    return make_loader(
        dataset,
        batch_size=batch_size,
        shuffle=train,
        seed=config.seed,
        workers=0 if prepared else config.workers,  # handing a batch over costs more than reading
        device=setting.device,
        rank=rank(),
        world=world(),
    )
