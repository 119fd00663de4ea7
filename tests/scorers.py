"""Small networks and photographs to score in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models import ColorAesthetics, build_model, save_model

QUANTILES = {"MOS": [v / 10 for v in range(101)], "color": [1 + 0.09 * v for v in range(101)]}
EXTRA = {"dataset": "icaa17k", "unit_range": [1, 9], "threshold": 5, "label_quantiles": QUANTILES}


def lively_nano(seed: int = 0, **options: object) -> ColorAesthetics:
    """A delegate_nano whose fresh weights are spread, so that photographs differ in score."""
    torch.manual_seed(seed)
    model = build_model("delegate_nano", **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "interest_net" in name or name.startswith("head.s"):
                parameter.mul_(4)
    model.extra = dict(EXTRA)
    return model


def save(model: ColorAesthetics, folder: Path) -> Path:
    """`model` as a weights folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder, model.extra)
    return folder


def picture(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """A random picture with large patches."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder: Path, count: int) -> list[str]:
    """`count` photographs in `folder`; their paths, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo {index:02d}.png" for index in range(count)]
    for index, path in enumerate(paths):
        picture(index, 60 + 7 * index).save(path)
    return [str(path) for path in paths]
