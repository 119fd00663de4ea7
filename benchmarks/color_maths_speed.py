"""The classical baselines: seconds for 1,000 photographs of 256 × 256, and where they go.

python benchmarks/color_maths_speed.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import Result, Row, add_arguments, format_table, seconds_in_turn
from color_measures import baseline_values, colorfulness, small_pixels
from color_types import color_type
from errors import run_cli
from harmony import (
    PER_DEGREE,
    STEPS,
    TEMPLATES,
    color_harmony,
    hue_and_saturation,
    template_distance,
)
from images import parallel_map

SIDE = 256
PLAIN = 8  # photographs that the plain way gets


def write_photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs of smooth random colors with grain, SIDE × SIDE."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        grain = rng.normal(0, 8, smooth.shape)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def plain_harmony(pixels: np.ndarray) -> float:
    """f_obj as eq. 6 reads: over every pixel, for each template and each of 360 orientations."""
    hue, saturation = hue_and_saturation(pixels)
    step = np.rint(hue * PER_DEGREE).astype(int)
    return min(
        (saturation * template_distance(name)[(step - PER_DEGREE * degree) % STEPS]).mean()
        for name in TEMPLATES
        for degree in range(360)
    )


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="photographs (default 1000)")
    add_arguments(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), args.count)
        some = [small_pixels(path) for path in paths[:PLAIN]]
        ways = {
            f"both baselines of {args.count} files": lambda: parallel_map(
                baseline_values, paths, None, "baselines"
            ),
            f"decode {PLAIN}": lambda: [small_pixels(path) for path in paths[:PLAIN]],
            f"harmony of {PLAIN}": lambda: [color_harmony(pixels) for pixels in some],
            f"colorfulness of {PLAIN}": lambda: [colorfulness(pixels) for pixels in some],
            f"color type of {PLAIN}": lambda: [color_type(pixels) for pixels in some],
        }
        seconds = seconds_in_turn(ways, args.repeats)
        plain = seconds_in_turn({"plain": lambda: plain_harmony(some[0])}, 1, warm_up=False)
    rows = [Row.of(name, "s", values) for name, values in seconds.items()]
    rows.append(Row.of("harmony of 1, every pixel for each orientation", "s", plain["plain"]))
    harmony = rows[2].median / PLAIN
    ratios = {"harmony by histogram": plain["plain"][0] / harmony}
    result = Result("color_maths_speed", "cpu", rows, ratios)
    print(format_table(result))
    result.save(args.json)


if __name__ == "__main__":
    run_cli(main)
