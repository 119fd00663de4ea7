"""The parts of REPRODUCTION.md: which runs there are, the tables, the released weights."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from config import TrainConfig
from models import build_model, count_flops
from reproduce.published import Row, Table
from reproduce.released import Evaluation
from reproduce.trials import APART, Result, Trial, on_sample, results_of

METRIC_NAMES = {"srcc": "SRCC", "plcc": "PLCC", "accuracy": "accuracy"}
BATCH = 16  # images behind the paper's FLOPs, as it seems
ON_TEST = "†"  # marks what was selected on the test split
FLOPS_NOTE = f"""\
GFLOP are those of `delegate_base`: matrix products and convolutions, by torch's FlopCounterMode,
multiply and add counted apart. The paper's seem to be for {BATCH} images with a multiply-add
counted once (the last column): Swin in all stages agrees. Its lower ones with delegate stages do
not come out: attention to all points costs no less than attention within windows.
"""
RELEASED_NOTE = """\
batch-N: interest points and gate averaged over batches of N in the order of the CSV, as the
released code does (which N the numbers in the names are from is not known: the published one of
training is assumed). image: each image's own points, so that no score depends on other images.
"""


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def setups_part(names: Mapping[str, str]) -> str:
    """What the runs were: a line a setup, by its name in `names`."""
    header = ("run", "network", "data set", "recipe", "epoch selected on", "epochs")
    rows: list[tuple[str, ...]] = [(*header, "weights to start from", "other settings")]
    for setup, name in names.items():
        values = json.loads(setup)
        config = TrainConfig.from_layers(("trials", values))
        usual = TrainConfig.from_layers(("", {"dataset": config.dataset})).to_dict()
        shown = {"dataset", "model", "recipe", "protocol", "epochs", "init_from"}
        other = [
            f"{key} {value}"
            for key, value in config.to_dict().items()
            if key not in shown | APART and value != usual.get(key)
        ]
        rows.append(
            (
                name,
                config.model,
                config.dataset,
                config.recipe,
                "part of train" if config.protocol == "holdout" else f"**test split** {ON_TEST}",
                str(config.epochs),
                config.init_from.name if config.init_from else "none: from scratch",
                ", ".join(other) or "–",
            )
        )
    return "## Runs\n\n" + (markdown_table(rows) if names else "No trial has finished.\n")


def table_part(table: Table, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """A table: the paper's numbers, and below each ours, a line a setup."""
    with_flops = any(row.flops for row in table.rows)
    header = ["", "run", "n"]
    for metric in table.metrics:
        header += [f"{METRIC_NAMES[metric]}: paper", "ours", "difference"]
    header += ["epochs: paper", "ours", "hours"]
    if with_flops:
        header += ["GFLOP: paper", "ours, 1 image", f"ours, {BATCH}", f"ours, {BATCH}, halved"]
    rows = [header]
    for row in table.rows:
        flops = flops_cells(row) if with_flops else []
        results = results_of(trials, table, row)
        lines = [result_cells(table, row, result, names[result.setup]) for result in results]
        for cells in lines or [no_result_cells(table, row)]:
            rows.append([row.name, *cells, *flops])
    parts = [f"## {table.title}\n", markdown_table(rows)]
    if table.others:
        others = " · ".join(other_method(table, row) for row in table.others)
        kinds = "/".join(METRIC_NAMES[metric] for metric in table.metrics)
        parts.append(f"Others, as published ({kinds}, epochs): {others}\n")
    return "\n".join(parts)


def result_cells(table: Table, row: Row, result: Result, name: str) -> list[str]:
    """The cells of our result, from `run` to `hours`."""
    config = result.trials[0].config
    mark = f" {ON_TEST}" if config.protocol == "paper" else ""
    cells = [name, str(len(result.trials))]
    for metric in table.metrics:
        published, mean, deviation = (
            getattr(row, metric),
            result.mean(metric),
            result.deviation(metric),
        )
        ours = "undefined" if math.isnan(mean) else f"{decimal(mean)}{mark}"
        if not math.isnan(deviation):
            ours = f"{decimal(mean)} ± {decimal(deviation)}{mark}"
        no_difference = published is None or math.isnan(mean) or on_sample(result.setup)
        difference = "–" if no_difference else f"{mean - published:+.3f}"
        cells += [published_number(published), ours, difference]
    return [*cells, str(row.epochs or "–"), str(config.epochs), f"{result.hours:.3g}"]


def no_result_cells(table: Table, row: Row) -> list[str]:
    """The cells of a row that nothing has run, from `run` to `hours`."""
    cells = ["–", "0"]
    for metric in table.metrics:
        cells += [published_number(getattr(row, metric)), "not run", "–"]
    return [*cells, str(row.epochs or "–"), "–", "–"]


def flops_cells(row: Row) -> list[str]:
    """The paper's GFLOP and those of the row's network."""
    options = {key: value for key, value in row.settings.items() if key != "targets"}
    gflops = base_gflops(**options)
    batch = BATCH * gflops
    return [f"{row.flops:g}", f"{gflops:.2f}", f"{batch:.0f}", f"{batch / 2:.0f}"]


@functools.cache
def base_gflops(**options: Any) -> float:
    """GFLOP of one image's forward pass through delegate_base with some options changed."""
    with torch.device("meta"):  # no values are needed
        network = build_model("delegate_base", targets=("color",), **options)
    return count_flops(network) / 1e9


def other_method(table: Table, row: Row) -> str:
    """`NIMA .809/.815/.906, 60`."""
    numbers = "/".join(published_number(getattr(row, metric)) for metric in table.metrics)
    return f"{row.name} {numbers}, {row.epochs}"


def released_part(evaluations: Sequence[Evaluation]) -> str:
    """The released checkpoints: the numbers in their names and those measured."""
    rows = [["file", "scored", "n", "", "in its name", "measured", "difference"]]
    for evaluation in evaluations:
        for metric, published in evaluation.file.published.items():
            value = evaluation.measured[metric]
            rows.append(
                [
                    f"`{evaluation.file.path.name}`",
                    evaluation.scored,
                    f"{evaluation.images:,}",
                    METRIC_NAMES[metric],
                    decimal(published),
                    "undefined" if value is None else decimal(value),
                    "–" if value is None else f"{value - published:+.4f}",
                ]
            )
    return f"## Released weights\n\n{RELEASED_NOTE}\n{markdown_table(rows)}"


def published_number(value: float | None) -> str:
    """As the paper has it: `.873`."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def decimal(value: float) -> str:
    """Four places, without the 0 before the point: `.8730`."""
    return f"{value:.4f}".replace("0.", ".", 1)
