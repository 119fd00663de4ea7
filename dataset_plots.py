"""The pictures of `dataset_stats.py`; all of its functions write one PNG to `path`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FEW = 3000  # points that a scatter plot shows well; more are counted in hexagons


def save_labels(path: Path, dataset: str, labels: Mapping[str, Mapping[str, Any]]) -> None:
    """Histograms of each score: share of a split's images over the score's own scale."""
    figure = Figure(figsize=(6 * len(labels), 4), layout="constrained")
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for axes, (name, numbers) in zip(panels, labels.items(), strict=True):
        for i, (split, counts) in enumerate(numbers["counts"].items()):
            share = 100 * np.array(counts) / max(sum(counts), 1)
            style = {"alpha": 0.35, "fill": True} if i == 0 else {"linewidth": 1.8}
            label = f"{split}, n = {sum(counts):,}"
            axes.stairs(share, numbers["edges"], color=f"C{i}", label=label, **style)
        mean = numbers["mean"]
        axes.axvline(mean, color="0.4", linestyle=":", label=f"mean {mean:.2f}")
        axes.set(xlabel=name, ylabel="images, %", title=f"{dataset}: {name}")
        axes.legend(fontsize=8)
    _save(figure, path)


def save_types(
    path: Path,
    dataset: str,
    by_folder: Mapping[str, Mapping[str, Any]] | None,
    by_rule: Mapping[str, Mapping[str, Any]] | None,
) -> None:
    """Bars of the images of each color type, in its colors: by folder, and dots by rule; where one
    is None the bars are the other."""
    bars, dots = (by_folder, by_rule) if by_folder else (by_rule, None)
    names = list(bars)[::-1]
    counts = [bars[name]["all"] for name in names]
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.add_subplot()
    for row, (name, count) in enumerate(zip(names, counts, strict=True)):
        colors = _colors(name)
        for i, color in enumerate(colors):  # of a pair each takes half of the bar's height
            height = 0.8 / len(colors)
            bottom = row + 0.4 - (i + 1) * height
            axes.barh(bottom, count, height, align="edge", color=color)
        axes.barh(row, count, 0.8, fill=False, edgecolor="0.4", linewidth=0.6)
        axes.annotate(f" {count:,}", (count, row), va="center", fontsize=7)
    if dots:
        axes.plot([dots[n]["all"] for n in names], range(len(names)), "ko", ms=4, label="by rule")
        axes.legend(fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.margins(x=0.08, y=0.01)
    kind = "by folder" if by_folder else "by rule"
    axes.set(xlabel="images", title=f"{dataset}: color types {kind}, n = {sum(counts):,}")
    _save(figure, path)


def save_relation(
    path: Path, dataset: str, table: pd.DataFrame, relation: Mapping[str, Any]
) -> None:
    """The first of two scores over the second, of all images."""
    first, last = relation["scores"]
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    _points(axes, table[last], table[first])
    axes.set(xlabel=last, ylabel=first)
    axes.set_title(f"{dataset}: SRCC {relation['srcc']:.2f}, n = {len(table):,}", fontsize=10)
    _save(figure, path)


def save_measures(
    path: Path,
    dataset: str,
    table: pd.DataFrame,
    score: str,
    measures: Mapping[str, Mapping[str, float]],
) -> None:
    """Each measure of the colors over the reported score, of the images in `table`."""
    figure = Figure(figsize=(6 * len(measures), 5), layout="constrained")
    panels = figure.subplots(1, len(measures))
    for axes, (name, numbers) in zip(panels, measures.items(), strict=True):
        _points(axes, table[score], table[name])
        axes.set(xlabel=score, ylabel=name)
        axes.set_title(f"{dataset}: SRCC {numbers['srcc']:.2f}, n = {len(table):,}", fontsize=10)
    _save(figure, path)


def _points(axes: Axes, x: pd.Series, y: pd.Series) -> None:
    if len(x) <= FEW:
        axes.scatter(x, y, s=12, alpha=float(np.clip(150 / len(x), 0.2, 0.7)), linewidths=0)
        return
    cells = axes.hexbin(x, y, gridsize=45, bins="log", mincnt=1, linewidths=0.1)
    axes.figure.colorbar(cells, ax=axes, label="images")


def _colors(color_type: str) -> list[str]:
    """What matplotlib calls the color of a type, or a pair's two."""
    names = color_type.partition("/")[2].split("_")
    return ["darkgoldenrod" if name == "darkyellow" else name for name in names]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
