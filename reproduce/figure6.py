"""Figure 6: SRCC over the number of color spaces and over the kernel size of Net_i."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reproduce.published import FIGURE_6
from reproduce.trials import Result, Trial, on_sample, results_of
from run_folder import replacing

AXES = ("number of color spaces κ", "kernel size of Net_i")


def save_figure_6(path: Path, trials: Sequence[Trial], names: Mapping[str, str]) -> None:
    """PNG of both curves, the paper's beside those of `trials` (mean, bars: standard deviation).

    names: the name of each setup's run.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, table, label in zip(figure.subplots(1, 2), FIGURE_6, AXES, strict=True):
        published = [(int(row.name), row.srcc) for row in table.rows if row.srcc is not None]
        axes.plot(*zip(*published, strict=True), "k.--", label="paper, ICAA17K")
        curves: dict[str, list[tuple[int, Result]]] = {}
        for row in table.rows:
            for result in results_of(trials, table, row):
                curves.setdefault(result.setup, []).append((int(row.name), result))
        for setup, points in curves.items():
            axes.errorbar(
                [x for x, _ in points],
                [result.mean("srcc") for _, result in points],
                yerr=[result.deviation("srcc") for _, result in points],
                marker="o",
                capsize=3,
                label=f"run {names[setup]}" + (", sample" if on_sample(setup) else ""),
            )
        axes.set(xlabel=label, ylabel="SRCC, test split", xticks=range(1, 11))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
