"""What can be said of a photograph's colors without learning: two classical baselines.

| baseline | value, larger for what it calls more beautiful |
|---|---|
| harmony | −f_obj in degrees, at most 0: see `harmony.py` (paper eq. 6; Cohen-Or et al. 2006) |
| colorfulness | M of Hasler & Süsstrunk 2003, 0 for gray, above 80 for very colorful photographs |

Photographs are measured at no more than SIDE pixels a side, their proportions kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import images
from harmony import color_harmony
from label_table import Labels

SIDE = 256
BASELINES = ("harmony", "colorfulness")


def colorfulness(pixels: np.ndarray) -> float:
    """Hasler & Süsstrunk's M = σ_rgyb + 0.3 μ_rgyb of 8-bit sRGB … × 3.

    rg = R − G and yb = (R + G) / 2 − B, with R, G, B in 0 … 255; σ_rgyb and μ_rgyb are the lengths
    of the two's standard deviations (over n) and means.
    """
    red, green, blue = pixels.reshape(-1, 3).T.astype(np.float64)
    opponent = np.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponent.std(axis=1), opponent.mean(axis=1)
    return float(np.linalg.norm(spread) + 0.3 * np.linalg.norm(mean))


def small_pixels(path: Path) -> np.ndarray:
    """8-bit sRGB H × W × 3 of an image file, made smaller where a side is longer than SIDE.

    Raises `images.ImageError` for a file that cannot be decoded.
    """
    image = images.open_rgb(path)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def baseline_values(path: Path) -> tuple[float, float]:
    """The values of BASELINES for an image file. Raises `images.ImageError`."""
    pixels = small_pixels(path)
    return color_harmony(pixels).score, colorfulness(pixels)


def measure_baselines(labels: Labels, workers: int | None = None) -> dict[str, np.ndarray]:
    """The values of each of BASELINES for N images, in `workers` threads (None: one per core).

    Raises `images.ImageError` for a file that cannot be decoded.
    """
    values = images.parallel_map(baseline_values, labels.paths, workers, "baselines")
    return dict(zip(BASELINES, np.array(values).T, strict=True))
