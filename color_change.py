"""Changing the hue, saturation, temperature or exposure of a photograph a little at a time.

Pixels are sRGB. What light does (exposure, temperature) happens in linear light; what the eye calls
hue and saturation is changed in OKLCh, where lightness and the other of the two stay as they look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from errors import UserError

DAYLIGHT = 6504.0  # kelvin of sRGB's white, D65
BISECTIONS = 10  # chroma is found to 1/1024 of itself
TOLERANCE = 2e-4  # of linear light: what the rounded matrices of color spaces are off


def change_color(pixels: np.ndarray, kind: str, step: float) -> np.ndarray:
    """8-bit sRGB H×W×3 with its `kind` (see `CHANGES`) changed by `step`; the same size and type.

    At the kind's neutral step nothing changes, bit for bit. Raises `UserError` for another kind.
    """
    change = change_of(kind)
    if step == change.neutral:
        return pixels.copy()
    return np.rint(change.apply(pixels / 255, step).clip(0, 1) * 255).astype(np.uint8)


def shift_hue(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the hue angle in OKLCh."""
    lightness, a, b = np.moveaxis(_to_oklab(rgb), -1, 0)
    turn = np.deg2rad(degrees)
    turned = (lightness, a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn))
    return _in_gamut(np.stack(turned, axis=-1))


def scale_saturation(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the chroma of OKLCh; 0 is gray."""
    return _in_gamut(_to_oklab(rgb) * [1, factor, factor])


def shift_temperature(rgb: np.ndarray, mired: float) -> np.ndarray:
    """Light of another color temperature: `mired` above 0 is warmer, below 0 cooler.

    Daylight (D series) of 10⁶ K / (10⁶ K / 6504 K + mired), which must be 4000 K … 25000 K, as a
    camera balanced for D65 sees it: the von Kries adaptation of Bradford's transform. A mired is
    about the same step to the eye wherever on the scale.
    """
    import colour

    kelvin = 1e6 / (1e6 / DAYLIGHT + mired)
    daylight = "CIE Illuminant D Series"
    whites = (colour.CCT_to_xy(temperature, daylight) for temperature in (DAYLIGHT, kelvin))
    source, target = (colour.xy_to_XYZ(white) for white in whites)
    xyz = colour.RGB_to_XYZ(rgb, "sRGB", apply_cctf_decoding=True)
    xyz = colour.chromatic_adaptation(xyz, source, target, method="Von Kries", transform="Bradford")
    return colour.XYZ_to_RGB(xyz, "sRGB", apply_cctf_encoding=True)


def shift_exposure(rgb: np.ndarray, stops: float) -> np.ndarray:
    """Twice the light a stop; what becomes brighter than white is white."""
    import colour

    light = colour.models.eotf_sRGB(rgb) * 2.0**stops
    return colour.models.eotf_inverse_sRGB(light.clip(0, 1))


@dataclass(frozen=True)
class Change:
    """One kind of change; `apply` takes sRGB … × 3 in 0 … 1 and a step."""

    apply: Callable[[np.ndarray, float], np.ndarray]
    steps: tuple[float, ...]
    neutral: float  # the step that changes nothing
    label: str
    mark: str  # format of a step


CHANGES = {
    "hue": Change(shift_hue, tuple(range(-75, 76, 15)), 0, "hue turned by (degrees)", "{:+g}°"),
    "saturation": Change(
        scale_saturation, tuple(i / 5 for i in range(11)), 1, "saturation multiplied by", "×{:g}"
    ),
    "temperature": Change(
        shift_temperature,
        tuple(range(-75, 76, 15)),
        0,
        "color temperature shifted by (mired; above 0 warmer)",
        "{:+g}",
    ),
    "exposure": Change(
        shift_exposure, tuple(i / 3 for i in range(-5, 6)), 0, "exposure (stops)", "{:+.2g}"
    ),
}


def change_of(kind: str) -> Change:
    """The change of that name; raises `UserError` for an unknown one."""
    if kind not in CHANGES:
        raise UserError(f"unknown kind of sweep {kind!r}: known are {', '.join(CHANGES)}")
    return CHANGES[kind]


def _to_oklab(rgb: np.ndarray) -> np.ndarray:
    import colour  # takes seconds to import

    return colour.XYZ_to_Oklab(colour.RGB_to_XYZ(rgb, "sRGB", apply_cctf_decoding=True))


def _to_linear(oklab: np.ndarray) -> np.ndarray:
    import colour

    return colour.XYZ_to_RGB(colour.Oklab_to_XYZ(oklab), "sRGB")


def _in_gamut(oklab: np.ndarray) -> np.ndarray:
    """Oklab … × 3 → sRGB; colors outside it lose chroma, not hue or lightness, until they fit."""
    import colour

    linear = _to_linear(oklab)
    outside = ~_fits(linear)
    if outside.any():
        linear[outside] = _to_linear(_less_chroma(oklab[outside]))
    return colour.models.eotf_inverse_sRGB(linear.clip(0, 1))


def _less_chroma(oklab: np.ndarray) -> np.ndarray:
    """N×3 with the largest chroma that fits into sRGB, found by bisection."""
    low, high = np.zeros((len(oklab), 1)), np.ones((len(oklab), 1))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = _fits(_to_linear(_scaled(oklab, middle)))[:, None]
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return _scaled(oklab, low)


def _scaled(oklab: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    return oklab * np.concatenate([np.ones_like(chroma), chroma, chroma], axis=-1)


def _fits(linear: np.ndarray) -> np.ndarray:
    return ((linear >= -TOLERANCE) & (linear <= 1 + TOLERANCE)).all(axis=-1)
