"""The 30 color types of ICAA17K: 15 dominant colors and 15 pairs of colors.

The paper sorts photographs by the 12-part color wheel, and its folders are named
`monochromatic/COLOR` and `complementary/COLOR_COLOR`; it gives no rule for the pixels. Ours, with
hue, saturation and value of HSV, and chroma = saturation × value:

1. A pixel is gray where its chroma is below .1: **white** from value .9, **black** below .2,
   **gray** between. It is also **black** where its value is below .15.
2. Any other pixel belongs to the nearest of the twelve hues of `WHEEL`: those of the colors that
   people call by these names in the XKCD color survey (xkcd.com/color/rgb).
3. Part and tone make its dominant color, and the part its family for the pairs, as `WHEEL` says.
   It is light where its saturation is below .45 and its value at least .7; dark where its value is
   below the part's `dark_below`.
4. An image is of the pair of its two most frequent families, if the second one covers at least
   PAIR_SHARE of its area; else of the dominant color that covers most.

Of 85 colors of that survey that are called by a dominant color's name, most with an adjective,
73 get the color of their name (`tests/test_color_types.py`). How well the rule agrees with the
folders of ICAA17K says `python dataset.py stats icaa17k`, where its images are at hand.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from harmony import hue_and_saturation
from sample_data import FOLDERS, PAIRS, SINGLES

GRAY_CHROMA = 0.1
WHITE_VALUE, BLACK_VALUE = 0.9, 0.2  # of gray pixels
DARKEST = 0.15  # value below which every pixel is black
LIGHT_SATURATION, LIGHT_VALUE = 0.45, 0.7
PAIR_SHARE = 0.15  # of the image's area


class Part(NamedTuple):
    """A part of the wheel: its hue in degrees, its family, and the dominant color of each tone."""

    name: str
    hue: float
    family: str
    full: str
    light: str
    dark: str
    dark_below: float  # value


WHEEL = (
    Part("red", 0, "red", "red", "lightpink", "red", 0.5),
    Part("red-orange", 13, "orange", "darkorange", "lightpink", "darkorange", 0.5),
    Part("orange", 27, "orange", "orange", "orange", "darkorange", 0.8),
    Part("yellow-orange", 42, "yellow", "darkyellow", "yellow", "darkyellow", 0.85),
    Part("yellow", 60, "yellow", "yellow", "yellow", "darkyellow", 0.85),
    Part("yellow-green", 77, "green", "green", "green", "darkgreen", 0.5),
    Part("green", 122, "green", "green", "green", "darkgreen", 0.5),
    Part("blue-green", 170, "green", "green", "lightblue", "darkgreen", 0.5),
    Part("blue", 222, "blue", "blue", "lightblue", "blue", 0.5),
    Part("blue-violet", 263, "violet", "violet", "violet", "violet", 0.5),
    Part("violet", 278, "violet", "violet", "violet", "violet", 0.5),
    Part("red-violet", 320, "red", "pink", "lightpink", "pink", 0.5),
)
SINGLE_NAMES = tuple(SINGLES)
FAMILIES = ("red", "orange", "yellow", "green", "blue", "violet")
_BORDERS = [(a.hue + b.hue) / 2 for a, b in pairwise(WHEEL)] + [(WHEEL[-1].hue + 360) / 2]
_TONES = np.array(  # index of a dominant color: part × (full, light, dark)
    [[SINGLE_NAMES.index(name) for name in (p.full, p.light, p.dark)] for p in WHEEL]
)
_FAMILY = np.array([FAMILIES.index(part.family) for part in WHEEL])
_DARK_BELOW = np.array([part.dark_below for part in WHEEL])
_BLACK, _GRAY, _WHITE = (SINGLE_NAMES.index(name) for name in ("black", "gray", "white"))


def color_type(pixels: np.ndarray) -> str:
    """The type of 8-bit sRGB … × 3 by the module's rule: one of ICAA17K's folders.

    Raises `ValueError` for pixels that are no 8-bit colors.
    """
    singles, families = classify(pixels)
    area = np.bincount(families[families >= 0], minlength=len(FAMILIES)) / len(families)
    second, first = np.argsort(area, kind="stable")[-2:]
    if area[second] >= PAIR_SHARE:
        return f"complementary/{pair_name(FAMILIES[first], FAMILIES[second])}"
    return f"monochromatic/{SINGLE_NAMES[np.bincount(singles).argmax()]}"


def classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sRGB … × 3, N pixels: dominant colors (indices of SINGLE_NAMES) and families (of
    FAMILIES; -1 for gray and black pixels), N integers each.

    Raises `ValueError` for pixels that are no 8-bit colors.
    """
    hue, saturation = hue_and_saturation(pixels)
    value = pixels.reshape(-1, 3).max(axis=1) / 255
    gray = saturation * value < GRAY_CHROMA
    part = np.searchsorted(_BORDERS, hue, side="right") % len(WHEEL)  # beyond the last: red again
    light = (saturation < LIGHT_SATURATION) & (value >= LIGHT_VALUE)
    tone = np.where(light, 1, np.where(value < _DARK_BELOW[part], 2, 0))
    shade = np.where(value >= WHITE_VALUE, _WHITE, np.where(value < BLACK_VALUE, _BLACK, _GRAY))
    singles = np.where(gray, shade, _TONES[part, tone])
    singles[value < DARKEST] = _BLACK
    colorless = gray | (value < DARKEST)
    return singles, np.where(colorless, -1, _FAMILY[part])


def pair_name(one: str, other: str) -> str:
    """ICAA17K's name of a pair of different families, in either order: `red_green`."""
    return next(name for name in PAIRS if set(name.split("_")) == {one, other})


def type_of_path(path: str) -> str | None:
    """The type that ICAA17K files an image under, from its path; None outside of its folders."""
    folder = "/".join(PurePath(path).parts[-3:-1])
    return folder if folder in FOLDERS else None
