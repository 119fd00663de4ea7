"""Two pictures of a run: predictions against labels, and how the epochs went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save_scatter(
    path: Path,
    label: np.ndarray,
    prediction: np.ndarray,
    *,
    title: str,
    threshold: float,
    scale: tuple[float, float],
) -> None:
    """PNG of N predictions over N labels, both on the label scale (low, high) = `scale`."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(scale, scale, color="0.6", linewidth=1, label="prediction = label")
    axes.axhline(threshold, color="tab:orange", linewidth=0.8, linestyle=":")
    axes.axvline(
        threshold,
        color="tab:orange",
        linewidth=0.8,
        linestyle=":",
        label=f"threshold {threshold:g}",
    )
    opacity = float(np.clip(200 / max(len(label), 1), 0.1, 0.7))
    axes.scatter(label, prediction, s=14, alpha=opacity, linewidths=0)
    values = np.concatenate([label, prediction])
    margin = 0.05 * (np.ptp(values) or 1.0)
    limits = (values.min() - margin, values.max() + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="label", ylabel="prediction")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper left", fontsize=8)
    _save(figure, path)


def save_learning_curve(
    path: Path, history: Sequence[Mapping[str, float]], *, best_epoch: int, selected_on: str
) -> None:
    """PNG of training loss and SRCC over the epochs; `history` holds one mapping an epoch."""
    epochs = [int(row["epoch"]) for row in history]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    loss_axes, srcc_axes = figure.subplots(2, 1, sharex=True)
    loss_axes.plot(epochs, [row["train_loss"] for row in history], marker=".")
    loss_axes.set(ylabel="training loss (unit scale)", ylim=(0, None))
    for name, label in (("srcc", "SRCC"), ("plcc", "PLCC"), ("accuracy", "accuracy")):
        srcc_axes.plot(epochs, [row[name] for row in history], marker=".", label=label)
    best = next(row for row in history if row["epoch"] == best_epoch)
    srcc_axes.axvline(
        best_epoch,
        color="0.5",
        linestyle="--",
        linewidth=1,
        label=f"best: epoch {best_epoch}, SRCC {best['srcc']:.3f}",
    )
    srcc_axes.set(xlabel="epoch", ylabel=f"on the {selected_on} split")
    srcc_axes.legend(fontsize=8)
    srcc_axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
