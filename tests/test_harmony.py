"""Color harmony against a plain reference, pixel by pixel, and cases worked out by hand."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from harmony import Harmony, color_harmony, hue_and_saturation, hue_histogram

# From figure 2 of Cohen-Or et al.: first and last hue of each sector, degrees.
SECTORS = {
    "i": [(-9, 9)],
    "I": [(-9, 9), (171, 189)],
    "V": [(-46.8, 46.8)],
    "L": [(-9, 9), (50.4, 129.6)],
    "Y": [(-46.8, 46.8), (171, 189)],
    "T": [(-90, 90)],
    "X": [(-46.8, 46.8), (133.2, 226.8)],
}


def of_hues(*hues: float, saturation: float = 1) -> np.ndarray:
    """A pixel of each hue in degrees, as bright as can be."""
    colors = [colorsys.hsv_to_rgb(hue / 360 % 1, saturation, 1) for hue in hues]
    return np.rint(255 * np.array(colors)).astype(np.uint8)


def reference_distance(pixels: np.ndarray, template: str, orientation: float) -> float:
    """Eq. 6 as it is written: mean of saturation × arc distance to the nearest sector border."""
    total = 0.0
    for color in pixels.reshape(-1, 3) / 255:
        hue, saturation, _ = colorsys.rgb_to_hsv(*color)
        borders, inside = [], False
        for first, last in SECTORS[template]:
            inside |= (hue * 360 - orientation - first) % 360 <= last - first
            borders += [orientation + first, orientation + last]
        arcs = [abs((hue * 360 - border + 180) % 360 - 180) for border in borders]
        total += 0 if inside else saturation * min(arcs)
    return total / len(pixels.reshape(-1, 3))


def test_equals_the_reference_over_all_orientations() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    found = color_harmony(pixels)
    every = [i / 10 for i in range(3600)]
    best = {name: min(reference_distance(pixels, name, a) for a in every) for name in SECTORS}
    assert found.distance == pytest.approx(min(best.values()), abs=1e-9)
    assert best[found.template] == pytest.approx(found.distance, abs=1e-9)


def test_its_own_orientation_gives_its_distance_in_the_reference() -> None:
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(40):  # few muted colors at times, so that all kinds of templates win
        pixels = rng.integers(0, 256, (int(rng.integers(1, 9)), 3), dtype=np.uint8)
        found = color_harmony(pixels)
        expected = reference_distance(pixels, found.template, found.orientation)
        assert found.distance == pytest.approx(expected, abs=1e-9)
        seen.add(found.template)
    assert len(seen) >= 5


@pytest.mark.parametrize(
    ("template", "hues"),
    [
        ("i", (40, 44, 55)),
        ("I", (0, 180)),  # two pure hues opposite each other
        ("V", (350, 80)),
        ("L", (0, 55, 125)),
        ("Y", (0, 90, 225)),
        ("T", (0, 60, 120, 175)),
        ("X", (0, 90, 180, 270)),
    ],
)
def test_hues_within_a_template_are_in_perfect_harmony(
    template: str, hues: tuple[float, ...]
) -> None:
    found = color_harmony(of_hues(*hues))
    assert (found.distance, found.template) == (0, template)


def test_red_green_and_blue_by_hand() -> None:
    """The large sector of Y is 93.6° wide and two of the hues are 120° apart, with the third one in
    the small sector: 26.4° of arc for three pixels. X is as good, but wider; T has 60°."""
    found = color_harmony(of_hues(0, 120, 240))
    assert found.distance == pytest.approx(26.4 / 3)
    assert found.template == "Y"


def test_saturation_weighs_the_distance() -> None:
    """The 26.4° between red, green and blue above fall to blue, where that has half of their
    saturation; blue of 36° less counts in the histogram with a fifth of it."""
    colors = np.array([[255, 0, 0], [0, 255, 0], [128, 128, 255]], np.uint8)
    assert color_harmony(colors).distance == pytest.approx(26.4 / 3 * (127 / 255))
    histogram = hue_histogram(np.array([[255, 153, 0], [255, 235, 205]], np.uint8))
    assert np.flatnonzero(histogram).tolist() == [360]  # both have a hue of 36.0°
    assert histogram[360] == pytest.approx((1 + 50 / 255) / 2)


def test_orientation_turns_with_the_hues() -> None:
    assert color_harmony(of_hues(0)).orientation == 0  # of -9 … 9, the smallest from 0 up
    assert color_harmony(of_hues(60)).orientation == 51
    assert color_harmony(of_hues(300)).orientation == 291


@pytest.mark.parametrize("value", [0, 100, 255])
def test_gray_has_no_hue(value: int) -> None:
    gray = np.full((4, 5, 3), value, np.uint8)
    assert color_harmony(gray) == Harmony(0.0, "N", None)


def test_hue_and_saturation_equal_colorsys() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    pixels[:5] = [[0, 0, 0], [9, 9, 9], [255, 0, 1], [255, 1, 0], [0, 255, 255]]
    expected = np.array([colorsys.rgb_to_hsv(*color)[:2] for color in (pixels / 255).tolist()])
    hue, saturation = hue_and_saturation(pixels)
    np.testing.assert_allclose(hue, 360 * expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(saturation, expected[:, 1], atol=1e-12)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 3), np.uint8)]
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="8-bit colors"):
        color_harmony(pixels)
