"""Photographs a second: predict.py's pipeline against a loop of one file at a time with Pillow.

python benchmarks/predict_speed.py --images FOLDER --count 400 delegate_base delegate_cnn
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import Result, Row, add_arguments, format_table, seconds_in_turn
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
    add_arguments(parser)
    args = parser.parse_args()
    keep_freed_memory()
    sources = list(islice(iter_sources([args.images]), args.count))
    result = Result("predict_speed", "cpu")
    for name in args.models:
        model = build_model(name, point_pooling="image").eval()
        scores = zip(one_at_a_time(model, sources), pipeline(model, sources), strict=True)
        apart = max(abs(one - other) for one, other in scores)
        ways = {
            "predict.py": partial(pipeline, model, sources),
            "one at a time": partial(one_at_a_time, model, sources),
        }
        seconds = seconds_in_turn(ways, args.repeats, warm_up=False)
        rates = {way: [len(sources) / took for took in seconds[way]] for way in ways}
        rows = [Row.of(f"{name}, {way}", "photographs/s", rates[way]) for way in ways]
        result.rows.extend(rows)
        result.ratios[f"{name}, predict.py / one at a time"] = rows[0].median / rows[1].median
        print(f"{name}: {len(sources)} photographs, scores at most {apart:.0e} apart", flush=True)
    print(f"{torch.get_num_threads()} threads")
    print(format_table(result))
    result.save(args.json)


if __name__ == "__main__":
    run_cli(main)
