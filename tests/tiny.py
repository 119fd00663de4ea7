"""A data set of a few small images that a network can be trained on within seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def write_tiny_dataset(root: Path, *, train: int = 14, test: int = 6) -> list[str]:
    """Images whose beauty, 1..7, is their share of red; returns the flags that train on them."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        with (root / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "quality", "beauty"])
            for index in range(count):
                red = (index + 0.5) / count
                pixels = rng.integers(0, 60, (24, 32, 3), dtype=np.uint8)
                pixels[..., 0] = 255 * red
                name = f"{split} {index}.png"
                Image.fromarray(pixels).save(root / name)
                table.writerow([name, round(rng.uniform(1, 7), 2), round(1 + 6 * red, 3)])
    return [
        *("--dataset", "csv", "--model", "delegate_nano", "--device", "cpu"),
        *("--train-csv", str(root / "train.csv"), "--test-csv", str(root / "test.csv")),
        *("--score-columns", "quality,beauty", "--score-range", "1,7", "--val-fraction", "0.3"),
        *("--batch-size", "4", "--lr", "1e-3", "--workers", "0", "--bootstrap", "50"),
    ]
