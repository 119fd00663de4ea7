"""The built-in synthetic data set, in ICAA17K's layout: 30 color folders of 25 small JPEGs.

The pictures are computed compositions (a muted background in the folder's color, six shapes, one
vivid ball or flower as the accent), not photographs; the scores are computed too, not human. The
set exists so that everything can be tried without a download; it says nothing of real aesthetics.

Three factors, each in 0..1 and drawn independently for every image, make the color score:

    harmony    = 1 - n / 6              n of the six shapes have the hue opposite the folder's
    saturation = 1 - ((s - .85) / .75)^2    s in 0.1..1, saturation of all colors: best at .85
    place      = 1 - (r / .4)^2         r: larger of the horizontal and vertical distance of accent
                                        and centre, in image sides: 1 in the centre, .83 at the
                                        rule-of-thirds points, 0 at the border

    color = 5.95 + 1.1 (harmony - .5) + 1.7 (saturation - .7) + 2.5 (place - .5) + .2 N(0, 1)
    MOS   = 4.92 + .55 (color - 5.95) + 1.8 (brightness - .5) + 1.8 (contrast - .5) + .5 N(0, 1)

clipped to 1..10. Brightness and contrast (0..1) are those of the whole picture. About half of the
variance of `color` is the accent's place, of which an image's overall colors tell nothing.
"""

from __future__ import annotations

import colorsys
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from errors import UserError

VERSION = 3  # raise it when pixels or scores change: older copies on disk are then replaced
STAMP = "sample_version.txt"
IMAGES_PER_FOLDER = 25
TEST_PER_FOLDER = 5
COLUMNS = ("ID", "color", "MOS", "probability")


class Tone(NamedTuple):
    """Hue in degrees; factors on the saturation and the value (brightness) of its colors."""

    hue: float
    tint: float
    shade: float


HUES = {"red": 0, "orange": 28, "yellow": 54, "green": 125, "blue": 220, "violet": 280}  # degrees
PAIRS = (  # ICAA17K's complementary folders
    *("blue_violet", "green_blue", "green_violet", "orange_blue", "orange_green"),
    *("orange_violet", "orange_yellow", "red_blue", "red_green", "red_orange"),
    *("red_violet", "red_yellow", "yellow_blue", "yellow_green", "yellow_violet"),
)
SINGLES = {  # ICAA17K's monochromatic folders
    "black": Tone(230, 0.3, 0.35),
    "blue": Tone(220, 1.0, 1.0),
    "darkgreen": Tone(130, 1.0, 0.55),
    "darkorange": Tone(22, 1.0, 0.7),
    "darkyellow": Tone(48, 1.0, 0.7),
    "gray": Tone(210, 0.3, 0.8),
    "green": Tone(120, 1.0, 0.95),
    "lightblue": Tone(200, 0.6, 1.1),
    "lightpink": Tone(345, 0.5, 1.15),
    "orange": Tone(28, 1.0, 1.0),
    "pink": Tone(330, 0.8, 1.05),
    "red": Tone(0, 1.0, 0.95),
    "violet": Tone(280, 1.0, 0.9),
    "white": Tone(40, 0.25, 1.15),
    "yellow": Tone(54, 1.0, 1.05),
}
FOLDERS = (
    *(f"complementary/{name}" for name in PAIRS),
    *(f"monochromatic/{name}" for name in SINGLES),
)
SHAPES = 6  # in the background
BORDER = 0.1  # the accent's centre keeps this distance, in image sides


@dataclass(frozen=True)
class Scene:
    """What the scores depend on."""

    clashing: int  # shapes of the background whose hue clashes, 0..SHAPES
    saturation: float  # 0.1..1
    position: tuple[float, float]  # x, y of the accent's centre, in image sides
    brightness: float  # 0..1
    contrast: float  # 0..1


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene with independent factors, each spread evenly over its range."""
    wanted = rng.uniform()  # even spread of `place`: the best of a few positions
    positions = rng.uniform(BORDER, 1 - BORDER, size=(32, 2))
    best = np.abs(place(positions) - wanted).argmin()
    return Scene(
        clashing=int(rng.integers(SHAPES + 1)),
        saturation=rng.uniform(0.1, 1),
        position=tuple(positions[best]),
        brightness=rng.uniform(),
        contrast=rng.uniform(),
    )


def place(positions: np.ndarray) -> np.ndarray:
    """The place factor in 0..1 of positions ... x 2 (x, y in image sides)."""
    distance = np.abs(positions - 0.5).max(axis=-1)
    return 1 - (distance / (0.5 - BORDER)) ** 2


def factors(scene: Scene) -> tuple[float, float, float]:
    """(harmony, saturation, place), as the module's docstring defines them."""
    saturation = 1 - ((scene.saturation - 0.85) / 0.75) ** 2
    return 1 - scene.clashing / SHAPES, saturation, float(place(np.array(scene.position)))


def noise_free_color(scene: Scene) -> float:
    """The color score without its noise."""
    harmony, saturation, place = factors(scene)
    return 5.95 + 1.1 * (harmony - 0.5) + 1.7 * (saturation - 0.7) + 2.5 * (place - 0.5)


def score(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """(color, MOS) of a scene, each in 1..10."""
    color = noise_free_color(scene) + 0.2 * rng.normal()
    mos = 4.92 + 0.55 * (color - 5.95) + 0.5 * rng.normal()
    mos += 1.8 * (scene.brightness - 0.5) + 1.8 * (scene.contrast - 0.5)
    return float(np.clip(color, 1, 10)), float(np.clip(mos, 1, 10))


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB in 0..1 of a hue in degrees; saturation and value above 1 count as 1."""
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, min(saturation, 1), min(value, 1)))


def palette(folder: str) -> tuple[Tone, Tone, Tone]:
    """(background, accent, clash) tones of a color folder; the clash is opposite the other two."""
    kind, _, name = folder.partition("/")
    if kind == "complementary":
        accent, background = (Tone(HUES[color], 1, 1) for color in name.split("_"))
    else:
        background = SINGLES[name]
        accent = Tone(background.hue, max(background.tint, 0.8), max(background.shade, 0.65))
    middle = (accent.hue + background.hue) / 2
    apart = abs(accent.hue - background.hue)
    clash = Tone(middle + (180 if apart < 180 else 0), 0.9, background.shade)
    return background, accent, clash


def smooth(ramp: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, the cubic 3 r^2 - 2 r^3 between."""
    ramp = ramp.clip(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def disc(
    x: np.ndarray, y: np.ndarray, center: tuple[float, float], radius: float, edge: float
) -> np.ndarray:
    """H x W coverage in 0..1 of a soft disc; `edge` is the share of the radius that fades."""
    return smooth((1 - np.hypot(x - center[0], y - center[1]) / radius) / edge)


def flower(
    x: np.ndarray, y: np.ndarray, center: tuple[float, float], radius: float, petals: int
) -> np.ndarray:
    """H x W coverage in 0..1 of a flower with that many petals."""
    angle = np.arctan2(y - center[1], x - center[0])
    reach = radius * (1 + 0.22 * np.cos(petals * angle))
    return smooth((1 - np.hypot(x - center[0], y - center[1]) / reach) / 0.12)


def backdrop(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """SHAPES coverages, H x W each, back to front: rows of hills, or soft discs in two rows."""
    if rng.random() < 0.5:
        centers = [
            ((i % 3 + rng.uniform(0.3, 0.7)) / 3, (i // 3 + rng.uniform(0.3, 0.7)) / 2)
            for i in range(SHAPES)
        ]
        return [disc(x, y, center, rng.uniform(0.2, 0.26), 0.3) for center in centers]
    crests = np.linspace(0.12, 0.85, SHAPES)
    waves = [rng.uniform(0.02, 0.06) * np.cos(rng.uniform(4, 10) * x + 6 * c) for c in crests]
    return [smooth((y - c - wave) / 0.03) for c, wave in zip(crests, waves, strict=True)]


def blend(canvas: np.ndarray, color: np.ndarray | float, cover: np.ndarray) -> None:
    """Lay a color over H x W x 3 where the H x W coverage says, in place."""
    canvas += (color - canvas) * cover[..., None]


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """H x W x 1, mean about 0: soft clouds and fine grain."""
    clouds = Image.fromarray(rng.normal(0, 0.03, size=(6, 6)).astype(np.float32))
    clouds = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC))
    return (clouds + rng.normal(0, 0.012, size=(height, width)))[..., None]


def paint(folder: str, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The picture of a scene: 160 to 192 by 128 to 160 pixels, or upright."""
    width, height = int(rng.integers(160, 193)), int(rng.integers(128, 161))
    if rng.random() < 0.3:
        width, height = height, width
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    background, accent, clash = palette(folder)

    chroma = 0.6 * scene.saturation
    top = hsv(background.hue, 0.7 * chroma * background.tint, 0.65 * background.shade)
    bottom = hsv(background.hue, chroma * background.tint, 0.5 * background.shade)
    canvas = top + (bottom - top) * y[..., None]
    clashing = rng.permutation(SHAPES) < scene.clashing
    for i, cover in enumerate(backdrop(x, y, rng)):
        tone, vividness = (clash, chroma + 0.3) if clashing[i] else (background, chroma)
        color = hsv(tone.hue, vividness * tone.tint, rng.uniform(0.5, 0.6) * tone.shade)
        blend(canvas, color, 0.95 * cover)
    # A vignette, as lenses make: a network without a sense of place can tell border from centre.
    blend(canvas, 0.0, 3.2 * np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) ** 2)

    center, radius = scene.position, rng.uniform(0.14, 0.17)
    ball = rng.random() < 0.5
    cover = disc(x, y, center, radius, 0.12) if ball else flower(x, y, center, radius, 6)
    light = (center[0] - 0.3 * radius, center[1] - 0.35 * radius) if ball else center
    blend(canvas, 0.0, 0.5 * disc(x - 0.02, y - 0.04, center, 1.25 * radius, 0.6))  # its shadow
    blend(canvas, hsv(accent.hue, scene.saturation * accent.tint, accent.shade), cover)
    blend(canvas, 1.0, 0.8 * disc(x, y, light, 0.6 * radius, 1.0))

    canvas += texture(height, width, rng)
    canvas = 0.5 + (canvas - 0.5) * (0.8 + 0.4 * scene.contrast)
    canvas *= 0.8 + 0.4 * scene.brightness
    return Image.fromarray(np.rint(canvas.clip(0, 1) * 255).astype(np.uint8))


def make_folder(root: Path, folder: str, seed: int) -> list[tuple[str, float, float, float]]:
    """Paint one color folder below `root`; returns its rows (ID, color, MOS, probability)."""
    (root / folder).mkdir(parents=True)
    rows = []
    for number in range(IMAGES_PER_FOLDER):
        rng = np.random.default_rng((seed, FOLDERS.index(folder), number))
        scene = draw_scene(rng)
        color, mos = score(scene, rng)
        name = f"{folder}/sample@{folder.replace('/', '_')}_{number:02d}.jpg"
        paint(folder, scene, rng).save(root / name, quality=95)
        rows.append((name, round(color, 6), round(mos, 6), round(rng.uniform(0.5, 0.9), 6)))
    return rows


def generate(root: Path, seed: int = 0) -> None:
    """Write images and `1all.csv`, `1train.csv` (600), `1test.csv` (150) into an empty folder."""
    splits: dict[str, list] = {"all": [], "train": [], "test": []}
    for folder in tqdm(FOLDERS, "sample data set", unit="folder", disable=None, leave=False):
        rows = make_folder(root, folder, seed)
        splits["all"] += rows
        splits["test"] += rows[:TEST_PER_FOLDER]
        splits["train"] += rows[TEST_PER_FOLDER:]
    for split, rows in splits.items():
        with (root / f"1{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *rows])
    (root / STAMP).write_text(f"{VERSION}\n", encoding="utf-8")


def ensure_sample(root: Path, *, again: bool = False) -> Path:
    """Generate the data set at `root` unless it is there already; returns `root`.

    The folder appears whole or not at all, and only one of several processes makes it. A copy by
    another generator version, or any with `again`, is replaced. Raises `UserError` when `root`
    holds something else or cannot be written.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")):
            if again or not is_current(root):
                regenerate(root)
    except OSError as error:
        raise UserError(f"the sample data set cannot be written to {root}: {error}") from error
    return root


def is_current(root: Path) -> bool:
    """Whether `root` holds the data set of this generator version."""
    stamp = root / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == str(VERSION)


def regenerate(root: Path) -> None:
    """Generate beside `root`, then put it in the place of what is there."""
    if root.exists() and any(root.iterdir()) and not (root / STAMP).is_file():
        raise UserError(
            f"{root} holds something other than the sample data set; choose another --data-root"
        )
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
        made = Path(folder, "made")
        made.mkdir()
        generate(made)
        if root.exists():
            root.rename(Path(folder, "old"))
        made.rename(root)
