"""How a photograph's score moves as its color is changed a little at a time (paper, figure 1)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from color_change import change_color, change_of
from explain import figure_path, render, short_name
from geometry import Placement
from models import ColorAesthetics
from preprocessing import Photo, as_rgb, resize
from run_folder import replacing

COLUMN = 0.95  # inches of a variant within the strip
STRIP_SIDE = 240  # pixels of a variant's longer side within the strip
SMALLEST_SPAN = 0.05  # of the label's scale, on the curve's vertical axis


@dataclass(frozen=True)
class Sweep:
    """N variants of a photograph and their scores of T targets, on the label's scale."""

    kind: str
    steps: tuple[float, ...]  # N
    variants: list[Image.Image]  # N, in the photograph's proportions
    targets: tuple[str, ...]  # T; the last is the reported one
    scores: np.ndarray  # N×T
    span: float  # of the label's scale, from the lowest to the highest score


def write_sweep(
    model: ColorAesthetics, photo: Photo, kind: str, out_dir: Path, *, name: str | None = None
) -> Path:
    """Write `NAME-….KIND.png`, the strip of variants with the curve, and `NAME-….KIND.csv`, its
    numbers, to `out_dir`; returns the picture's path.

    kind: hue, saturation, temperature or exposure. name: the path or address that the files are
    named after, where `photo` is not one. Raises `UserError` for another kind, and `ImageError` for
    a file that cannot be decoded.
    """
    sweep = compute_sweep(model, as_rgb(photo), kind)
    if name is None:
        name = str(photo) if isinstance(photo, (str, Path)) else "photo"
    path = figure_path(out_dir, name, kind)
    with replacing(path) as temporary:
        render(draw(sweep, short_name(name))).save(temporary)
    with replacing(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([kind, *sweep.targets])
        rows = zip(sweep.steps, sweep.scores, strict=True)
        table.writerows([round(step, 6), *scores.round(6).tolist()] for step, scores in rows)
    return path


def compute_sweep(model: ColorAesthetics, image: Image.Image, kind: str) -> Sweep:
    """Score an RGB image with its color changed step by step.

    The change is made to the pixels that the network sees, after the resize: so the neutral step
    has exactly the photograph's own score, and the cost does not depend on the photograph's size.
    Padding around the photograph stays as it is.
    """
    change = change_of(kind)
    side, aspect = model.config.image_size, model.config.aspect
    pixels = resize(image, side, aspect).permute(1, 2, 0).numpy()
    place = Placement.of((image.height, image.width), side, aspect)
    inside = np.s_[place.top : place.top + place.height, place.left : place.left + place.width]
    changed = [change_color(pixels[inside], kind, step) for step in change.steps]
    squares = [pixels.copy() for _ in changed]
    for square, photo in zip(squares, changed, strict=True):
        square[inside] = photo
    results = model.score(squares)
    scale = model.label_scale
    size = _fitting(image.size)
    variants = [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in changed]
    scores = np.array([[result[name] for name in scale.names] for result in results])
    return Sweep(kind, change.steps, variants, scale.names, scores, scale.high - scale.low)


def draw(sweep: Sweep, title: str) -> Figure:
    """The strip of variants, each with the reported score, above the curves of all targets."""
    change = change_of(sweep.kind)
    count = len(sweep.steps)
    neutral = sweep.steps.index(change.neutral)
    width, height = sweep.variants[0].size
    strip_height = COLUMN * min(height / width, 1.6) + 0.3
    figure = Figure(figsize=(COLUMN * count + 0.8, strip_height + 2.9), layout="constrained")
    figure.get_layout_engine().set(wspace=0, w_pad=0.02)
    title = f"{title}: {sweep.targets[-1]} as the {sweep.kind} is changed"
    figure.suptitle(title, fontsize=13, parse_math=False)
    grid = figure.add_gridspec(2, count, height_ratios=[strip_height, 2.4])
    for i, variant in enumerate(sweep.variants):
        axes = figure.add_subplot(grid[0, i])
        axes.imshow(variant)
        weight = "bold" if i == neutral else "normal"
        axes.set_xlabel(f"{sweep.scores[i, -1]:.2f}", fontsize=11, fontweight=weight)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=i == neutral, linewidth=3)
    curve = figure.add_subplot(grid[1, :])
    for t, name in enumerate(sweep.targets):
        reported = t == len(sweep.targets) - 1
        curve.plot(
            sweep.scores[:, t],
            marker="o" if reported else ".",
            linewidth=2 if reported else 1,
            color="#c2410c" if reported else "0.6",
            label=name,
        )
    curve.axvline(neutral, color="0.5", linestyle=":", label="as it is")
    marks = [change.mark.format(step) for step in sweep.steps]
    curve.set(xlim=(-0.5, count - 0.5), xlabel=change.label, ylabel="score")
    _keep_apart(curve, SMALLEST_SPAN * sweep.span)
    curve.set_xticks(range(count), marks)
    curve.grid(alpha=0.3)
    curve.legend(fontsize=9)
    return figure


def _keep_apart(axes: Axes, span: float) -> None:
    """Widen the vertical axis to at least `span`, so that a flat curve looks flat."""
    low, high = axes.get_ylim()
    margin = max(0.0, span - (high - low)) / 2
    axes.set_ylim(low - margin, high + margin)


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    """The same proportions within the strip's square."""
    factor = STRIP_SIDE / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
