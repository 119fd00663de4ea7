"""The rule of the 30 color types against colors that people have named, and made-up images."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import XKCD_COLORS, to_rgb

from color_types import FAMILIES, SINGLE_NAMES, classify, color_type, pair_name, type_of_path
from sample_data import FOLDERS, PAIRS

# What becomes of a name when an adjective stands before it; no other adjective changes the type.
TONED = {
    **{("dark", name): f"dark{name}" for name in ("orange", "yellow", "green")},
    **{("light", name): f"light{name}" for name in ("pink", "blue")},
}
LIKE = {  # adjectives of the survey -> the one of the folders that they come nearest to
    **dict.fromkeys(("light", "pale", "baby", "very light"), "light"),
    **dict.fromkeys(("dark", "deep", "burnt", "very dark"), "dark"),
    **dict.fromkeys(("bright", "dull", "royal", "hot", ""), ""),
}
OWN = {("sky", "blue"): "lightblue", ("forest", "green"): "darkgreen"}
OWN |= {("mustard", "yellow"): "darkyellow", ("mustard", "green"): "green"}
OWN |= {("burnt", "yellow"): "yellow"}
SYNONYMS = {"purple": "violet", "grey": "gray"}


def rgb(name: str) -> np.ndarray:
    """8-bit RGB of a color of the XKCD survey."""
    return np.rint(255 * np.array(to_rgb(f"xkcd:{name}"))).astype(np.uint8)


def survey() -> dict[str, str]:
    """Names of the survey that say which dominant color they mean -> that color."""
    named = {}
    for key in XKCD_COLORS:
        name = key.removeprefix("xkcd:")
        adjective, _, noun = name.rpartition(" ")
        color = SYNONYMS.get(noun, noun)
        if color not in SINGLE_NAMES or not (adjective in LIKE or (adjective, color) in OWN):
            continue
        toned = TONED.get((LIKE.get(adjective), color), color)
        named[name] = OWN.get((adjective, color), toned)
    return named


def single(name: str) -> str:
    return SINGLE_NAMES[classify(rgb(name))[0][0]]


def test_the_rule_agrees_with_people_as_its_docstring_says() -> None:
    named = survey()
    wrong = {name for name, color in named.items() if single(name) != color}
    assert (len(named), len(named) - len(wrong)) == (85, 73)
    assert {"sky blue", "dark pink", "deep violet"} < wrong  # among them


@pytest.mark.parametrize("name", SINGLE_NAMES)
def test_every_dominant_color_is_found(name: str) -> None:
    spoken = name.replace("dark", "dark ").replace("light", "light ").replace("gray", "grey")
    other = rgb("grey" if name != "gray" else "white")
    image = np.array([rgb(spoken)] * 60 + [other] * 40).reshape(10, 10, 3)
    assert color_type(image) == f"monochromatic/{name}"


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_found_from_its_smallest_share_on(name: str) -> None:
    one, other = (rgb(color) for color in name.split("_"))
    enough = np.array([one] * 15 + [other] * 65 + [rgb("grey")] * 20)
    assert color_type(enough) == f"complementary/{name}"
    assert color_type(enough[::-1].reshape(10, 10, 3)) == f"complementary/{name}"
    too_little = np.array([one] * 14 + [other] * 65 + [rgb("grey")] * 21)
    assert color_type(too_little) == f"monochromatic/{name.split('_')[1]}"


def test_colorless_pixels_are_of_no_family() -> None:
    _, families = classify(np.array([rgb(name) for name in ("black", "grey", "white", "blue")]))
    assert families.tolist() == [-1, -1, -1, FAMILIES.index("blue")]


def test_the_wheel_closes_at_red() -> None:
    hues = np.array([[255, 0, 60], [255, 0, 0], [255, 20, 0]], np.uint8)  # 346, 0 and 5 degrees
    assert [SINGLE_NAMES[i] for i in classify(hues)[0]] == ["red"] * 3


def test_pairs_are_named_as_the_folders_in_either_order() -> None:
    assert pair_name("green", "red") == pair_name("red", "green") == "red_green"
    assert pair_name("blue", "green") == "green_blue"


def test_type_of_a_path() -> None:
    assert type_of_path("complementary/orange_blue/1@N07.jpg") == "complementary/orange_blue"
    assert type_of_path("a/b/monochromatic/red/x.jpg") == "monochromatic/red"
    assert [type_of_path(p) for p in ("red/x.jpg", "temperature/x.JPG", "x.jpg", "a/b/c")] == [
        None
    ] * 4
    assert len(FOLDERS) == 30
