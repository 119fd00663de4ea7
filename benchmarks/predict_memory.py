"""Memory of scoring a long folder: resident megabytes after every 2,000 photographs.

python benchmarks/predict_memory.py --count 20000
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from errors import run_cli
from models import build_model
from photo_sources import Source, iter_sources
from score_output import ScoreOutput
from scoring import Row, columns, score_photos

STEP = 2000  # photographs between two looks


def main() -> None:
    """Score links to one small photograph into a CSV file, as predict.py does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    model = build_model("delegate_nano", point_pooling="image").eval()
    process, done, result = psutil.Process(), 0, measuring.Result("predict_memory", "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        photo, folder = Path(temporary) / "photo.png", Path(temporary) / "photos"
        pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photo)
        folder.mkdir()
        for index in range(args.count):
            (folder / f"{index:07d}.png").symlink_to(photo)

        def batches(sources: Iterator[Source]) -> Iterator[list[Row]]:
            nonlocal done
            workers = os.cpu_count() or 1
            for rows in score_photos(model, sources, batch_size=16, workers=workers, timeout=1):
                yield rows
                done += len(rows)
                if done % STEP < len(rows):
                    megabytes = process.memory_info().rss / 2**20
                    print(f"{done:7d} {megabytes:7.1f} MB", flush=True)
                    name = f"after {done} photographs"
                    result.rows.append(measuring.Row.of(name, "MB", [megabytes]))

        output = ScoreOutput(Path(temporary) / "scores.csv", columns(model.label_scale))
        output.fill(iter_sources([str(folder)]), batches)
    if len(result.rows) > 1:
        first, last = result.rows[0], result.rows[-1]
        result.ratios["memory in the beginning / at the end"] = first.median / last.median
    result.save(args.json)


if __name__ == "__main__":
    run_cli(main)
