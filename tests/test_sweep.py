"""Changes of color against formulas written out here, and the scores of the changed pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewing import tiny_model

from color_change import CHANGES, change_color
from errors import UserError
from sweep import compute_sweep, draw, write_sweep

RNG = np.random.default_rng(0)
# Ottosson's Oklab, https://bottosson.github.io/posts/oklab: linear sRGB to cone responses, to Lab.
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
TO_XYZ = np.array(  # IEC 61966-2-1
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def linear(pixels: np.ndarray) -> np.ndarray:
    """8-bit sRGB → linear light 0 … 1 (IEC 61966-2-1)."""
    v = pixels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def oklch(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lightness, chroma, hue in degrees."""
    lab = np.cbrt(linear(pixels) @ TO_LMS.T) @ TO_LAB.T
    hue = np.rad2deg(np.arctan2(lab[..., 2], lab[..., 1]))
    return lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), hue


def turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From angle b to a, −180 … 180 degrees."""
    return (a - b + 180) % 360 - 180


@pytest.mark.parametrize("kind", CHANGES)
def test_neutral_step_changes_nothing_and_neighbours_change_little(kind: str) -> None:
    pixels = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    neutral = CHANGES[kind].neutral
    same = change_color(pixels, kind, neutral)
    assert same is not pixels
    np.testing.assert_array_equal(same, pixels)
    nearly = change_color(pixels, kind, neutral + 1e-6).astype(int)
    assert abs(nearly - pixels).max() <= 1  # the way there and back does not move colors
    assert neutral in CHANGES[kind].steps


def test_exposure_doubles_the_light() -> None:
    pixels = RNG.integers(20, 180, (50, 50, 3), dtype=np.uint8)
    brighter = change_color(pixels, "exposure", 1)
    np.testing.assert_allclose(linear(brighter), 2 * linear(pixels), atol=0.01)
    assert (change_color(np.full((1, 1, 3), 250, np.uint8), "exposure", 1) == 255).all()


def test_temperature_gives_gray_the_color_of_daylight() -> None:
    """Chromaticity of CIE daylight at 1e6 / (1e6 / 6504 + 50) = 4908 K, and the way back."""
    gray = np.full((1, 1, 3), 150, np.uint8)
    kelvin = 1e6 / (1e6 / 6504 + 50)
    x = 0.244063 + 99.11 / kelvin + 2.9678e6 / kelvin**2 - 4.6070e9 / kelvin**3
    y = -3 * x**2 + 2.87 * x - 0.275
    warm = change_color(gray, "temperature", 50)
    xyz = linear(warm)[0, 0] @ TO_XYZ.T
    np.testing.assert_allclose(xyz[:2] / xyz.sum(), [x, y], atol=0.002)
    luminance = linear(gray)[0, 0] @ TO_XYZ[1]
    assert xyz[1] == pytest.approx(luminance, abs=0.005)
    cool = change_color(gray, "temperature", -50)[0, 0]
    assert cool[2] > cool[1] > cool[0]


def test_hue_turns_and_nothing_else() -> None:
    pixels = RNG.integers(100, 150, (40, 40, 3), dtype=np.uint8)  # muted: the turn stays in sRGB
    lightness, chroma, hue = oklch(pixels)
    new_lightness, new_chroma, new_hue = oklch(change_color(pixels, "hue", 60))
    vivid = chroma > 0.03  # of grays the hue is rounding
    assert vivid.sum() > 100
    np.testing.assert_allclose(turn(new_hue, hue)[vivid], 60, atol=4)
    np.testing.assert_allclose(new_lightness, lightness, atol=0.005)
    np.testing.assert_allclose(new_chroma, chroma, atol=0.005)


def test_saturation_scales_chroma_and_zero_is_gray() -> None:
    pixels = RNG.integers(100, 140, (40, 40, 3), dtype=np.uint8)
    lightness, chroma, hue = oklch(pixels)
    new_lightness, new_chroma, new_hue = oklch(change_color(pixels, "saturation", 1.6))
    vivid = chroma > 0.03
    np.testing.assert_allclose(new_chroma, 1.6 * chroma, atol=0.005)
    np.testing.assert_allclose(turn(new_hue, hue)[vivid], 0, atol=4)
    np.testing.assert_allclose(new_lightness, lightness, atol=0.005)
    gray = change_color(pixels, "saturation", 0)
    assert np.ptp(gray.astype(int), axis=-1).max() <= 1


def test_colors_beyond_srgb_keep_hue_and_lightness() -> None:
    """Clipping the channels instead would turn this sky's hue by about ten degrees."""
    sky = np.full((2, 2, 3), (40, 140, 230), np.uint8)
    lightness, chroma, hue = oklch(sky)
    new_lightness, new_chroma, new_hue = oklch(change_color(sky, "saturation", 2))
    np.testing.assert_allclose(turn(new_hue, hue), 0, atol=1.5)
    np.testing.assert_allclose(new_lightness, lightness, atol=0.005)
    assert (new_chroma > chroma).all()


def test_files_hold_the_networks_scores(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "a sky.png"
    Image.effect_noise((180, 60), 60).convert("RGB").save(path)
    written = write_sweep(model, path, "exposure", tmp_path / "new" / "folder")
    with Image.open(written) as picture:
        assert picture.width > 900
    with written.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["exposure"]) for row in rows] == pytest.approx([i / 3 for i in range(-5, 6)])
    own = model.score(path)
    # Of ratings 0..10; scored alone and in a batch, rounding differs.
    assert {name: float(rows[5][name]) for name in own} == pytest.approx(own, abs=2e-4)
    # A step's score is that of the photograph so changed, which the resize before hardly alters.
    with Image.open(path) as photo:
        changed = change_color(np.array(photo.resize((128, 128), 2)), "exposure", 1)
    brighter = model.score(Image.fromarray(changed))
    assert {name: float(rows[8][name]) for name in own} == pytest.approx(brighter, abs=2e-4)
    assert len({row["color"] for row in rows}) > 5
    assert sorted(p.suffix for p in written.parent.iterdir()) == [".csv", ".png"]


def test_strip_has_the_photographs_proportions() -> None:
    sweep = compute_sweep(tiny_model(), Image.new("RGB", (90, 300), "olive"), "hue")
    assert {variant.size for variant in sweep.variants} == {(72, 240)}
    figure = draw(sweep, "olive")
    labels = [axes.get_xlabel() for axes in figure.axes[:-1]]
    assert labels == [f"{score:.2f}" for score in sweep.scores[:, -1]]
    marks = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert marks[5] == "+0°"


def test_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hue, saturation, temperature, exposure"):
        write_sweep(tiny_model(), Image.new("RGB", (8, 8)), "sharpness", tmp_path)
    assert not list(tmp_path.iterdir())
