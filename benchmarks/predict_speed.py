"""Photographs a second: predict.py's pipeline against a loop of one file at a time with Pillow.

python benchmarks/predict_speed.py --images FOLDER --count 400 delegate_base delegate_cnn
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import run_cli
from models import ColorAesthetics, build_model
from photo_sources import Source, iter_sources
from preprocessing import normalise, resize
from scoring import score_photos
from util import keep_freed_memory


def one_at_a_time(model: ColorAesthetics, sources: list[Source]) -> list[float]:
    """What a user writes first: open, resize, forward, next."""
    scores = []
    with torch.no_grad():
        for source in sources:
            pixels = resize(Image.open(source.path).convert("RGB"), model.config.image_size)
            unit = model(normalise(pixels)[None])
            scores.append(model.label_scale.from_unit(unit)[0, -1].item())
    return scores


def pipeline(model: ColorAesthetics, sources: list[Source]) -> list[float]:
    """As predict.py does it."""
    name = model.label_scale.names[-1]
    workers = os.cpu_count() or 1
    batches = score_photos(model, sources, batch_size=16, workers=workers, timeout=1)
    return [row[name] for rows in batches for row in rows]


def main() -> None:
    """Time both on the same photographs, in turn, and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=400, help="photographs (default 400)")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts")
    args = parser.parse_args()
    keep_freed_memory()
    sources = list(islice(iter_sources([args.images]), args.count))
    for name in args.models:
        model = build_model(name, point_pooling="image").eval()
        pipeline(model, sources[:16])  # warm
        seconds: dict[Callable, float] = {}
        scores = {}
        for _ in range(args.repeats):
            for way in (one_at_a_time, pipeline):
                start = time.perf_counter()
                scores[way] = way(model, sources)
                took = time.perf_counter() - start
                seconds[way] = min(took, seconds.get(way, took))
        apart = max(abs(a - b) for a, b in zip(*scores.values(), strict=True))
        naive, ours = (len(sources) / seconds[way] for way in (one_at_a_time, pipeline))
        print(
            f"{name}: {ours:.1f} photographs/s against {naive:.1f} one at a time, ratio "
            f"{ours / naive:.2f} (n = {len(sources)}, {torch.get_num_threads()} threads; "
            f"scores at most {apart:.0e} apart)"
        )


if __name__ == "__main__":
    run_cli(main)
