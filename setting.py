"""What a run needs before it starts: the labels of its splits, its network, its batches."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.data import DataLoader

from config import TrainConfig
from dataset import ColorDataset, data_spec_from, make_loader
from distributed import rank, world
from errors import UserError
from labels import Labels, drop_broken, load_splits, split_by_score
from models import build_model, load_weights
from util import seed_everything


@dataclass(frozen=True)
class Setting:
    """What a run needs besides the network: settled before anything is written."""

    config: TrainConfig
    device: torch.device
    splits: dict[str, Labels]  # train, val and test; with protocol paper val is the test split


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
    """Batches (images B x 3 x S x S, unit targets B x T, indices B) of a split; this process's part
    of them, if there are several."""
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
        rank=rank(),
        world=world(),
    )
