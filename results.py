"""From predicted unit scores to the numbers that are reported: metrics, tables, files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from config import TrainConfig
from labels import Labels
from plots import save_learning_curve, save_scatter
from progress import Progress
from reproduce.published import published_metrics
from run_folder import RunFolder, replacing
from util import bootstrap_intervals, compute_metrics, mean_rating

NAMES = {
    "srcc": "SRCC",
    "plcc": "PLCC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "majority_accuracy": "majority-class accuracy",
    "rmse": "RMSE",
}


@dataclass(frozen=True)
class Scored:
    """A split with its predictions: R reported scores of N images, on the label's own scale."""

    ids: Sequence[str]
    names: tuple[str, ...]  # R names; the last is the reported target
    label: np.ndarray  # N x R
    prediction: np.ndarray  # N x R
    threshold: float
    scale: tuple[float, float]  # lowest and highest possible score
    # N values of each classical baseline, on scales of their own: see color_measures.py
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_unit(cls, labels: Labels, scores: np.ndarray) -> Scored:
        """`scores`: N x T on the unit scale; ava: N x 10 shares, reported as their mean rating."""
        if labels.dataset == "ava":
            names, label, scale = ("rating",), labels.rating[:, None], (1.0, 10.0)
            prediction = mean_rating(scores)[:, None]
        else:
            names, label, scale = labels.targets, labels.scores, labels.unit_range
            prediction = scale[0] + (scale[1] - scale[0]) * scores
        return cls(labels.ids, names, label, prediction, labels.threshold, scale)

    def metrics(self, target: int = -1) -> dict[str, float]:
        """`util.METRICS` of one target, the reported one by default."""
        return compute_metrics(self.label[:, target], self.prediction[:, target], self.threshold)

    def summary(self, *, samples: int, seed: int) -> dict[str, Any]:
        """Number of images, and every target's metrics with their 95 % bootstrap intervals.

        Where there are baselines, "baselines" has their SRCC and PLCC with the reported target;
        their values are no ratings, so the other metrics say nothing.
        """

        def metrics(label: np.ndarray, prediction: np.ndarray) -> dict[str, dict[str, Any]]:
            values = compute_metrics(label, prediction, self.threshold)
            intervals = bootstrap_intervals(
                label, prediction, self.threshold, samples=samples, seed=seed
            )
            return {name: {"value": values[name], "interval": intervals[name]} for name in values}

        columns = zip(self.names, self.label.T, self.prediction.T, strict=True)
        targets = {name: metrics(label, prediction) for name, label, prediction in columns}
        summary: dict[str, Any] = {"images": len(self.ids), "targets": targets}
        if self.baselines:
            found = {name: metrics(self.label[:, -1], v) for name, v in self.baselines.items()}
            summary["baselines"] = {
                name: {metric: values[metric] for metric in ("srcc", "plcc")}
                for name, values in found.items()
            }
        return summary


def label_quantiles(labels: Labels) -> dict[str, list[float]]:
    """Percentiles 0, 1, ..., 100 of each reported score: where a prediction lies among them."""
    scored = Scored.from_unit(labels, labels.unit_scores)
    quantiles = np.quantile(scored.label, np.linspace(0, 1, 101), axis=0)
    return {name: quantiles[:, index].tolist() for index, name in enumerate(scored.names)}


def checkpoint_extra(train: Labels) -> dict[str, Any]:
    """What a checkpoint says of its training labels, so that scores can be read without them."""
    return {
        "dataset": train.dataset,
        "targets": list(train.targets),
        "unit_range": list(train.unit_range),
        "threshold": train.threshold,
        "label_quantiles": label_quantiles(train),
    }


def write_results(
    run: RunFolder,
    config: TrainConfig,
    scored: Mapping[str, Scored],
    progress: Progress | None,
) -> dict[str, Any]:
    """Final metrics of each split in `scored` (the last counts) to the terminal and the folder.

    Writes metrics.json, predictions.csv, scatter.png and, after a training, learning_curve.png.
    Returns {split: summary}.
    """
    summaries = {
        split: part.summary(samples=config.bootstrap, seed=config.seed)
        for split, part in scored.items()
    }
    split, last = list(scored.items())[-1]
    target, metrics = last.names[-1], last.metrics()
    facts = {"target": target, "protocol": config.protocol, "threshold": last.threshold}
    facts["best_epoch"] = progress.best_epoch if progress else None
    run.write_json("metrics.json", {**facts, **summaries})
    write_predictions(run, last)
    title = (
        f"{config.dataset} {split}, {target}: SRCC {metrics['srcc']:.3f}, "
        f"PLCC {metrics['plcc']:.3f}, RMSE {metrics['rmse']:.3f}, n = {len(last.ids):,}"
    )
    with replacing(run.path / "scatter.png") as temporary:
        save_scatter(
            temporary,
            last.label[:, -1],
            last.prediction[:, -1],
            title=title,
            threshold=last.threshold,
            scale=last.scale,
        )
    if progress:
        selected_on = "validation" if config.protocol == "holdout" else "test"
        with replacing(run.path / "learning_curve.png") as temporary:
            save_learning_curve(
                temporary,
                progress.history,
                best_epoch=progress.best_epoch,
                selected_on=selected_on,
            )
        print(f"\nbest epoch by SRCC on the {selected_on} split: {progress.best_epoch}")
    paper = published_metrics(config.dataset, last.names)
    print("\n" + format_table(summaries, target=target, paper=paper))
    print(f"\nrun folder: {run.path}", flush=True)
    return summaries


def write_predictions(run: RunFolder, scored: Scored) -> None:
    """predictions.csv: image, label and prediction of the reported target, then label_NAME and
    prediction_NAME of each other target, all on the label's own scale."""
    header, columns = ["image"], []
    for index in reversed(range(len(scored.names))):
        suffix = "" if index == len(scored.names) - 1 else f"_{scored.names[index]}"
        header += [f"label{suffix}", f"prediction{suffix}"]
        columns += [scored.label[:, index], scored.prediction[:, index]]
    rows = np.stack(columns, axis=1).round(6).tolist()
    table = [[image, *row] for image, row in zip(scored.ids, rows, strict=True)]
    run.write_csv("predictions.csv", header, table)


def format_table(
    summaries: Mapping[str, Mapping[str, Any]],
    *,
    target: str,
    paper: tuple[str, Mapping[str, float]] | None = None,
) -> str:
    """The reported target's metrics with intervals, and the baselines' where there are any: a line
    a metric, a column a split."""
    header = [target, *(f"{split} (n = {s['images']:,})" for split, s in summaries.items())]
    columns = [
        {name: _cell(metric) for name, metric in _lines(summary, target).items()}
        for summary in summaries.values()
    ]
    if paper:
        header.append(f"paper, test: {paper[0]}")
        columns.append({NAMES[metric]: f"{value:.3f}" for metric, value in paper[1].items()})
    names = dict.fromkeys(name for column in columns for name in column)
    return align([header, *([name, *(c.get(name, "") for c in columns)] for name in names)])


def format_repeats(repeats: Sequence[Mapping[str, Any]], *, target: str) -> str:
    """Mean and standard deviation (n - 1) over seeds; `repeats`: one {split: summary} a seed."""
    splits = list(repeats[0])
    rows = [[f"{target}, {len(repeats)} seeds", *(f"{s}: mean ± sd" for s in splits)]]
    lines = {split: [_lines(repeat[split], target) for repeat in repeats] for split in splits}
    for name in dict.fromkeys(name for of_split in lines.values() for name in of_split[0]):
        row = [name]
        for of_split in lines.values():
            values = [line[name]["value"] for line in of_split if name in line]
            deviation = np.std(values, ddof=1) if len(values) > 1 else math.nan
            row.append(f"{np.mean(values):.4f} ± {deviation:.4f}" if values else "")
        rows.append(row)
    return align(rows)


def _lines(summary: Mapping[str, Any], target: str) -> dict[str, Mapping[str, Any]]:
    """The lines that a split's summary fills in a table: name -> value and interval."""
    lines = {name: summary["targets"][target][metric] for metric, name in NAMES.items()}
    for baseline, metrics in summary.get("baselines", {}).items():
        lines |= {f"{NAMES[metric]} of {baseline}": value for metric, value in metrics.items()}
    return lines


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of equally wide columns, with a rule under the first."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(metric: Mapping[str, Any]) -> str:
    # Read back from metrics.json, what is undefined is None.
    value, low, high = (
        math.nan if v is None else v for v in (metric["value"], *metric["interval"])
    )
    if np.isnan(value):
        return "undefined: constant scores"
    return f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")
