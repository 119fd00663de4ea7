"""One figure that explains a photograph's score, after figures 4, 5 and 7 of the paper."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from explanation import PhotoExplanation, Segmentation, explain_image
from models import ColorAesthetics
from palette import dominant_colors
from preprocessing import Photo, as_rgb
from run_folder import replacing
from scoring import Row, score_column

SHOWN_SIDE = 640  # pixels of a photograph's longer side within the figure
HEAT_SIDE = 256  # pixels of the saliency, before it is stretched over the photograph
PANEL = 3.7  # inches of a panel's longer side
MEAN_AREA = 45  # of an attention circle, in square points
MOVED, CLOSED = "#ffd21f", "#8a8a8a"


def explain_photo(model: ColorAesthetics, photo: Photo, out_dir: Path, result: Row) -> Path:
    """Write the figure of an image to `out_dir` as a PNG; returns its path.

    result: the image's scores, see `scoring.columns`; its `path` names the figure.
    Raises `ImageError` for a file that cannot be decoded.
    """
    title = headline(result, model.label_scale.names)
    figure = draw(explain_image(model, as_rgb(photo)), title)
    path = figure_path(out_dir, str(result["path"]), "explain")
    with replacing(path) as temporary:
        render(figure).save(temporary)
    return path


def figure_path(out_dir: Path, photo: str, kind: str) -> Path:
    """Where a figure of `photo` (path or address) goes: `out_dir`, which is made, and a name that
    no photograph of another folder shares."""
    out_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(os.fsencode(photo), digest_size=3).hexdigest()
    return out_dir / f"{Path(photo).stem[:80]}-{digest}.{kind}.png"


def render(figure: Figure) -> Image.Image:
    """The figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def headline(result: Row, names: tuple[str, ...]) -> str:
    """`photo.jpg: color 6.42 (percentile 71), MOS 5.10`; the reported score is last in `names`.

    The percentile is left out where the training labels are not known.
    """
    scores = [f"{name} {result[score_column(name)]:.2f}" for name in reversed(names)]
    if result.get("percentile") is not None:
        scores[0] += f" (percentile {result['percentile']:.0f})"
    return f"{short_name(str(result['path']))}:  {',  '.join(scores)}"


def short_name(path: str) -> str:
    """The file's name for a title: at most 40 characters, and none that cannot be drawn."""
    name = Path(path).name.encode("utf-8", "replace").decode()
    return name if len(name) <= 40 else f"{name[:25]}…{name[-14:]}"


def draw(explanation: PhotoExplanation, title: str) -> Figure:
    """Six views of the photograph, its weights over the color spaces, its dominant colors."""
    top, left, bottom, right = explanation.frame
    aspect = (right - left) / (bottom - top)
    width, height = PANEL * min(1, max(aspect, 0.4)), PANEL / max(1, min(aspect, 2.5))
    width = max(width, 3.0)
    figure = Figure(figsize=(3 * width + 0.4, 2 * (height + 0.4) + 3.2), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", parse_math=False)
    views, weights = figure.subfigures(2, 1, height_ratios=[2 * (height + 0.4), 2.8])
    axes = views.subplots(2, 3).ravel()
    for panel in axes:
        panel.set_axis_off()
    padded = " (hatched: padding)" if explanation.placement.is_padded else ""
    show_photo(axes[0], explanation, f"photograph{padded}")
    show_saliency(axes[1], explanation)
    show_offsets(axes[2], explanation)
    show_gate(axes[3], explanation)
    show_attention(axes[4], explanation)
    show_segmentation(axes[5], explanation)
    show_colors(weights, explanation)
    return figure


def show_photo(
    axes: Axes, explanation: PhotoExplanation, title: str, *, fade: float = 0.0, gray: bool = False
) -> None:
    """The photograph under a coordinate system of its pixels; `fade` 0 … 1 towards white.

    Where the network was shown more than it, the padding is hatched.
    """
    image = explanation.image
    small = image.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    if gray:
        small = small.convert("L").convert("RGB")
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    axes.imshow(np.asarray(small) / 255 * (1 - fade) + fade, extent=extent)
    if explanation.placement.is_padded:
        top, left, bottom, right = explanation.frame
        style = {"facecolor": "white", "edgecolor": "0.75", "hatch": "///", "zorder": -1}
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))
        axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.autoscale(False)
    axes.set_title(title, fontsize=11)


def show_saliency(axes: Axes, explanation: PhotoExplanation) -> None:
    """Figure 5: where the score comes from (red), and where it is lowered (blue)."""
    show_photo(axes, explanation, "saliency: red raises, blue lowers", fade=0.2, gray=True)
    heat = Image.fromarray(explanation.saliency.astype(np.float32))
    heat = np.asarray(heat.resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR))
    top, left, bottom, right = explanation.frame
    extent = (left, right, bottom, top)
    axes.imshow(heat, extent=extent, cmap="RdBu_r", alpha=0.9 * np.abs(heat), vmin=-1, vmax=1)


def show_offsets(axes: Axes, explanation: PhotoExplanation) -> None:
    """Figure 7 a: interest points, and where each group's offsets move them."""
    points = explanation.points
    show_photo(axes, explanation, "(a) interest points, moved by offsets", fade=0.4)
    ends = _inside(points.moved, explanation)  # G×N×2
    starts = np.broadcast_to(_inside(points.interest, explanation), ends.shape)
    lines = np.stack([starts, ends], axis=2).reshape(-1, 2, 2)[..., ::-1]
    axes.add_collection(LineCollection(lines, colors="black", linewidths=0.8, zorder=2))
    _dots(axes, starts[0], color="white", size=14, label="interest point")
    _dots(axes, ends, color=MOVED, size=9, label="moved")
    _legend(axes)


def show_gate(axes: Axes, explanation: PhotoExplanation) -> None:
    """Figure 7 b: points whose gate is open; closed ones are grey, where they would have been."""
    points = explanation.points
    is_open, closed = points.is_open, int((~points.is_open).sum())
    show_photo(axes, explanation, "(b) after the gate", fade=0.4)
    if closed:
        places = _inside(points.moved[:, ~is_open], explanation)
        _dots(axes, places, color=CLOSED, size=9, alpha=0.8)
        axes.plot(*points.keys[-1, ::-1], "X", color="white", mec="black", ms=11, zorder=4)
    moved = _inside(points.moved[:, is_open], explanation)
    _dots(axes, moved, color=MOVED, size=18, label=f"{is_open.sum()} open")
    _dots(axes, np.empty((0, 2)), color=CLOSED, size=18, label=f"{closed} closed: to the centre")
    _legend(axes)


def show_attention(axes: Axes, explanation: PhotoExplanation) -> None:
    """Figure 7 c: circles at the open points, their area the attention they get; the attention to
    all closed ones, at the centre, in words."""
    points = explanation.points
    show_photo(axes, explanation, "(c) attention over all heads and queries", fade=0.4)
    is_gated = not points.is_open.all()
    count = len(points.keys) - is_gated
    if count:
        y, x = _inside(points.keys[:count], explanation).T
        areas = points.attention[:count] / points.attention[:count].mean() * MEAN_AREA
        areas = areas.clip(max=12 * MEAN_AREA)
        axes.scatter(x, y, s=areas, facecolors="#ff5a1f66", edgecolors="#7a1f00", linewidths=0.8)
    if is_gated:
        text = f"centre {points.attention[-1]:.0%}"
        box = {"boxstyle": "round", "facecolor": "white", "alpha": 0.85}
        axes.text(*points.keys[-1, ::-1], text, ha="center", va="center", fontsize=10, bbox=box)


def show_segmentation(axes: Axes, explanation: PhotoExplanation) -> None:
    """Figure 7 d: every place that is read, in the color of its color space."""
    points, segmentation = explanation.points, explanation.segmentation
    if segmentation is None:
        show_photo(axes, explanation, "(d) this network has no color spaces", fade=0.4)
        return
    show_photo(axes, explanation, "(d) color spaces, 1 = dominant", fade=0.4)
    colors = space_colors(segmentation)
    used = np.unique(segmentation.spaces)
    for space in sorted(used, key=lambda space: segmentation.ranks[space]):
        places = _inside(points.keys[segmentation.spaces == space], explanation)
        label = f"{segmentation.ranks[space]}"
        _dots(axes, places, color=colors[space], size=26, label=label)
    _legend(axes)


def space_colors(segmentation: Segmentation) -> list[tuple[float, ...]]:
    """One distinct color a space, the same for the same rank in all figures."""
    count = len(segmentation.ranks)
    if count <= 10:
        return [matplotlib.colormaps["tab10"](rank - 1) for rank in segmentation.ranks]
    return [matplotlib.colormaps["turbo"]((r - 1) / (count - 1)) for r in segmentation.ranks]


def show_colors(figure: SubFigure, explanation: PhotoExplanation) -> None:
    """Figure 4: weights of the color points over the spaces, beside the dominant colors."""
    points_axes, sums_axes, swatch_axes = figure.subplots(1, 3, width_ratios=[3, 1, 1.3])
    show_swatches(swatch_axes, explanation.image)
    weights, segmentation = explanation.space_weights, explanation.segmentation
    if weights is None or segmentation is None:
        points_axes.set_axis_off()
        sums_axes.set_axis_off()
        return
    order = np.argsort(segmentation.ranks)  # dominant space on top
    ranks = range(1, len(order) + 1)
    extent = (0.5, len(weights) + 0.5, len(order) + 0.5, 0.5)
    picture = points_axes.imshow(
        weights.T[order], extent=extent, aspect="auto", cmap="viridis", vmin=0, vmax=1
    )
    points_axes.set(xlabel="color point", ylabel="color space (rank)", yticks=ranks)
    points_axes.set_title("weights of the color points over the color spaces", fontsize=11)
    points_axes.figure.colorbar(picture, ax=points_axes, pad=0.01)
    colors = space_colors(segmentation)
    sums_axes.barh(ranks, weights.sum(axis=0)[order], color=[colors[i] for i in order])
    sums_axes.set(xlabel="sum of weights", yticks=ranks, ylim=(len(order) + 0.5, 0.5))
    sums_axes.set_title("each space's weight", fontsize=11)


def show_swatches(axes: Axes, image: Image.Image) -> None:
    """The photograph's dominant colors as bars of their share, labelled in percent."""
    swatches = dominant_colors(image)
    places = range(len(swatches))
    shares = [100 * swatch.share for swatch in swatches]
    bars = axes.barh(places, shares, color=[s.rgb for s in swatches], edgecolor="0.5", height=0.9)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=10)
    axes.set(xlim=(0, max(shares) * 1.25), ylim=(len(swatches) - 0.5, -0.5))
    axes.set_axis_off()
    axes.set_title("dominant colors", fontsize=11)


def _dots(axes: Axes, places: np.ndarray, *, size: float, **style: Any) -> None:
    y, x = places.reshape(-1, 2).T
    axes.scatter(x, y, s=size, edgecolors="black", linewidths=0.5, zorder=3, **style)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right", fontsize=9, framealpha=0.9, handletextpad=0.1, borderpad=0.3
    ).set_zorder(5)


def _inside(places: np.ndarray, explanation: PhotoExplanation) -> np.ndarray:
    """Places beyond what the network was shown are drawn at its border."""
    top, left, bottom, right = explanation.frame
    return places.clip([top + 0.5, left + 0.5], [bottom - 0.5, right - 0.5])
