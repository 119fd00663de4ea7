"""Color harmony of an image: the paper's f_obj (eq. 6), after Cohen-Or et al. 2006.

A harmonic template is one or two sectors of the hue wheel, turned by an orientation:

| template | sectors: center and width in degrees, at orientation 0 |
|---|---|
| i | 0, 18 |
| I | 0, 18 and 180, 18 |
| V | 0, 93.6 |
| L | 0, 18 and 90, 79.2 |
| Y | 0, 93.6 and 180, 18 |
| T | 0, 180 |
| X | 0, 93.6 and 180, 93.6 |
| N | no hue at all: gray images, and they alone |

    F(template, orientation) = mean over the pixels of  S · d(H, nearest border of a sector)
    f_obj = min over template and orientation of F

H and S are hue and saturation of HSV; the arc distance d is in degrees, 0 inside of a sector.
(Cohen-Or et al. sum over the pixels, in radians; the mean does not depend on the image's size.)
So f_obj is 0 where an image is in perfect harmony, and grows with what stands out of it; below 90.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

# Narrowest first: of templates that fit equally well, the one that says most is reported.
TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    "i": ((0, 18),),
    "I": ((0, 18), (180, 18)),
    "V": ((0, 93.6),),
    "L": ((0, 18), (90, 79.2)),
    "Y": ((0, 93.6), (180, 18)),
    "T": ((0, 180),),
    "X": ((0, 93.6), (180, 93.6)),
}
GRAY = "N"
# Steps of hue and orientation in a degree. At 0.1° every border of a sector, and every hue that is
# equally far from two borders, is a whole number of steps.
PER_DEGREE = 10
STEPS = 360 * PER_DEGREE
DIGITS = 9  # of a distance in degrees; the rest are rounding errors


@dataclass(frozen=True)
class Harmony:
    """How far an image is from its best harmonic template."""

    distance: float  # f_obj, degrees: 0 is perfect harmony
    template: str  # a key of TEMPLATES, or GRAY
    orientation: float | None  # degrees, a multiple of 0.1, 0 … 360; None for gray images

    @property
    def score(self) -> float:
        """−f_obj: at most 0, larger for what is more harmonious."""
        return 0 - self.distance  # not −0.0


def color_harmony(pixels: np.ndarray) -> Harmony:
    """f_obj of 8-bit sRGB … × 3, over all templates and orientations in steps of 0.1°.

    Exact at these orientations to 1e-9° (see `hue_histogram`); one between two steps could
    be better by at most 0.05°. Of equal ones the narrowest template, then the smallest orientation,
    is reported. Raises `ValueError` for pixels that are no 8-bit colors.
    """
    histogram = hue_histogram(pixels)
    if not histogram.any():
        return Harmony(0.0, GRAY, None)
    # Correlation over the circle: F of every template (rows) at every orientation (columns).
    spectrum = np.fft.rfft(histogram) * _template_spectra().conj()
    distances = np.fft.irfft(spectrum, STEPS, axis=1)
    best, turn = np.argwhere(distances <= distances.min() + 10**-DIGITS)[0]
    # Without the transforms' rounding errors images in perfect harmony are equal: exactly 0.
    distance = round(max(distances[best, turn].item(), 0.0), DIGITS)
    return Harmony(distance, list(TEMPLATES)[best], turn.item() / PER_DEGREE)


def hue_histogram(pixels: np.ndarray) -> np.ndarray:
    """Saturation of 8-bit sRGB … × 3 over the hue wheel, STEPS values; their sum is the mean S.

    A pixel's saturation is split between the two steps beside its hue, in proportion to how near
    they are. The distance to a template is linear between two steps, so the sum over the steps
    equals that over the pixels. Raises `ValueError` for pixels that are no 8-bit colors.
    """
    hue, saturation = hue_and_saturation(pixels)
    hue *= PER_DEGREE
    below = np.floor(hue).astype(np.int32)
    above = saturation * (hue - below)
    histogram = np.bincount(below, saturation - above, STEPS + 2)
    histogram += np.bincount(below + 1, above, STEPS + 2)
    histogram[:2] += histogram[STEPS:]  # the wheel closes
    return histogram[:STEPS] / len(hue)


def hue_and_saturation(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees, 0 … 360, and saturation, 0 … 1, of HSV: N values each, of sRGB … × 3.

    The hue of gray is 0. Raises `ValueError` for pixels that are no 8-bit colors.
    """
    if pixels.dtype != np.uint8 or pixels.shape[-1:] != (3,) or not pixels.size:
        raise ValueError(f"8-bit colors … × 3 are needed, not {pixels.dtype} {pixels.shape}")
    red, green, blue = pixels.reshape(-1, 3).T.astype(np.float64)
    highest = np.maximum(np.maximum(red, green), blue)
    chroma = highest - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1)  # where chroma is 0 the hue is 0, whatever it is divided by
    sixth = np.where(
        highest == red,
        (green - blue) / divisor % 6,
        np.where(highest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return sixth * 60, chroma / np.maximum(highest, 1)


@cache
def template_distance(name: str) -> np.ndarray:
    """Arc distance in degrees of each of STEPS hues to a template of orientation 0; do not write.

    Raises `KeyError` for an unknown name.
    """
    hue, half = np.arange(STEPS), STEPS // 2
    distances = []
    for center, width in TEMPLATES[name]:
        apart = np.abs((hue - round(center * PER_DEGREE) + half) % STEPS - half)
        distances.append(np.maximum(apart - round(width / 2 * PER_DEGREE), 0))
    return np.min(distances, axis=0) / PER_DEGREE


@cache
def _template_spectra() -> np.ndarray:
    return np.fft.rfft([template_distance(name) for name in TEMPLATES])
