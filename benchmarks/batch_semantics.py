"""How far apart a photograph's scores are when interest points and gate are averaged over its
batch, as in the released code, and when they are its own, as `predict.py` has it.

    python benchmarks/batch_semantics.py --weights pretrained/icaa17k.pth --images FOLDER
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import run_cli
from models import load_model, set_point_pooling
from photo_sources import iter_sources
from prepared import Transform
from preprocessing import normalise
from util import srcc


def main() -> None:
    """Score the first photographs both ways and print how much they differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=64, help="photographs (default 64)")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    model = load_model(args.weights)
    transform = Transform(model.config.image_size, model.config.aspect)
    paths = [Path(source.path) for source in islice(iter_sources([args.images]), args.count)]
    scores: dict[str, list[np.ndarray]] = {"batch": [], "image": []}
    with torch.inference_mode():
        for start in range(0, len(paths), args.batch_size):
            chunk = paths[start : start + args.batch_size]
            pixels = [normalise(transform.load(path)) for path in chunk]
            for pooling, parts in scores.items():
                set_point_pooling(model, pooling)
                parts.append(model.label_scale.from_unit(model(torch.stack(pixels))).numpy())
    batch, image = (np.concatenate(scores[pooling]).T for pooling in ("batch", "image"))
    print(f"{len(paths)} photographs, batches of {args.batch_size}, {model.config.name}")
    for index, name in enumerate(model.label_scale.names):
        difference = np.abs(batch[index] - image[index])
        print(
            f"{name}: mean |batch - image| {difference.mean():.4f}, largest {difference.max():.4f};"
            f" standard deviation of the scores {image[index].std():.4f},"
            f" SRCC of the two {srcc(batch[index], image[index]):.4f}"
        )


if __name__ == "__main__":
    run_cli(main)
