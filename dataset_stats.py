"""`python dataset.py stats NAME`: what a data set's labels and colors are like.

Into its folder go

    labels.png       histogram of each score     relation.png  first score over the last
    color_types.png  images of each color type   measures.png  harmony and colorfulness over score
    stats.json       the numbers                 images.csv    a line an image

and a table on the terminal. Labels, and ICAA17K's color types, come from the tables alone; harmony,
colorfulness and the types by rule (see `color_types.py`) from the images, as far as they are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import images
from color_measures import BASELINES, colorfulness, small_pixels
from color_types import color_type, type_of_path
from dataset_plots import save_labels, save_measures, save_relation, save_types
from errors import UserError
from harmony import color_harmony
from labels import DataSpec, load_splits
from results import Scored, align
from run_folder import RunFolder, replacing
from sample_data import FOLDERS
from util import plcc, srcc

BINS = 40  # of a label's histogram
BY_FOLDER, BY_RULE = "type_by_folder", "type_by_rule"
MEASURES = (*BASELINES, "template", "orientation", BY_RULE)  # of an image's colors
SHOWN = 5  # images that do not decode, on the terminal


@dataclass(frozen=True)
class Statistics:
    """A data set's images and what was found of them.

    names: of the scores, the reported one last.
    table: a line an image: image, split, each score on its own scale, type_by_folder; MEASURES
    (see `color_measures.py`, `harmony.py`, `color_types.py`), empty where an image is not at hand.
    """

    dataset: str
    names: tuple[str, ...]
    table: pd.DataFrame
    missing: str | None  # the first image file that is not there
    broken: list[str]  # why images do not decode

    @property
    def measured(self) -> pd.DataFrame:
        """The lines of images that were there and could be read."""
        return self.table[self.table[BASELINES[0]].notna()]


def collect(spec: DataSpec, workers: int | None = None) -> Statistics:
    """Read labels and measure images in `workers` threads (None: one per core).

    Raises `UserError` for labels that cannot be used; images may be missing or broken.
    """
    if spec.name == "spaq" and spec.targets is None:
        spec = replace(spec, targets=("MOS", "Colorfulness"))
    splits = load_splits(replace(spec, require_images=False))
    parts, names = [], ()
    for split, labels in splits.items():
        scored = Scored.from_unit(labels, labels.unit_scores)
        names = scored.names
        part = pd.DataFrame({"image": labels.ids, "split": split})
        part[list(names)] = scored.label
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    paths = [path for labels in splits.values() for path in labels.paths]
    table[BY_FOLDER] = [type_of_path(image) for image in table["image"]]
    there = [i for i, path in enumerate(paths) if path.is_file()]
    found = images.parallel_map(measure, [paths[i] for i in there], workers, "measuring")
    good = {i: values for i, values in zip(there, found, strict=True) if isinstance(values, tuple)}
    measures = pd.DataFrame.from_dict(good, orient="index", columns=MEASURES)
    return Statistics(
        spec.name,
        names,
        table.join(measures),
        missing=next((str(path) for path in paths if not path.is_file()), None),
        broken=[values for values in found if isinstance(values, str)],
    )


def measure(path: Path) -> tuple[Any, ...] | str:
    """The MEASURES of an image file; the reason instead, where it does not decode."""
    try:
        pixels = small_pixels(path)
    except images.ImageError as error:
        return str(error)
    found = color_harmony(pixels)
    values = (found.score, colorfulness(pixels))
    return (*values, found.template, found.orientation, color_type(pixels))


def summarise(statistics: Statistics) -> dict[str, Any]:
    """The numbers of stats.json: images, labels, color types, relations."""
    table, names, measured = statistics.table, statistics.names, statistics.measured
    summary: dict[str, Any] = {
        "dataset": statistics.dataset,
        "images": table["split"].value_counts(sort=False).to_dict(),
        "missing": len(table) - len(measured) - len(statistics.broken),
        "broken": statistics.broken,
        "labels": {name: _label_numbers(table, name) for name in names},
        "relation": None,
        "color_types": {},
        "measures": {},
    }
    if len(names) > 1:
        first, last = table[names[0]].to_numpy(), table[names[-1]].to_numpy()
        summary["relation"] = {"scores": [names[0], names[-1]], **_correlation(last, first)}
    for column in (BY_FOLDER, BY_RULE):
        if table[column].notna().any():
            summary["color_types"][column] = _type_numbers(table, column, names[-1])
    both = measured.dropna(subset=BY_FOLDER)
    if len(both):
        agreement = float((both[BY_FOLDER] == both[BY_RULE]).mean())
        summary["color_types"]["agreement"] = {"images": len(both), "share": agreement}
    for name in BASELINES if len(measured) else ():
        rating, values = measured[names[-1]].to_numpy(), measured[name].to_numpy()
        summary["measures"][name] = _correlation(rating, values) | {"mean": float(values.mean())}
    return summary


def _label_numbers(table: pd.DataFrame, name: str) -> dict[str, Any]:
    parts = table.groupby("split", sort=False)[name]
    numbers = table[name].agg(["min", "mean", "median", "max", "std"]).to_dict()
    # Scores may be equal but for rounding; the bins need some width.
    edges = np.linspace(numbers["min"], max(numbers["max"], numbers["min"] + 1e-6), BINS + 1)
    counts = {split: np.histogram(part, edges)[0].tolist() for split, part in parts}
    return numbers | {"edges": edges.tolist(), "counts": counts}


def _type_numbers(table: pd.DataFrame, column: str, score: str) -> dict[str, dict[str, Any]]:
    """Of each color type: images of each split and in all, mean of the reported score."""
    numbers = {}
    for name in FOLDERS:
        part = table[table[column] == name]
        counts = {split: int((part["split"] == split).sum()) for split in table["split"].unique()}
        mean = float(part[score].mean()) if len(part) else None
        numbers[name] = counts | {"all": len(part), "mean": mean}
    return numbers


def _correlation(label: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return {"srcc": float(srcc(label, values)), "plcc": float(plcc(label, values))}


def format_summary(summary: dict[str, Any]) -> str:
    """The numbers as tables for the terminal."""
    images_of, names = summary["images"], list(summary["labels"])
    sizes = ", ".join(f"{split} {count:,}" for split, count in images_of.items())
    columns = ("min", "mean", "median", "max", "std")
    rows = [["score", "lowest", "mean", "median", "highest", "sd"]]
    rows += [
        [name, *(f"{numbers[column]:.2f}" for column in columns)]
        for name, numbers in summary["labels"].items()
    ]
    parts = [f"{summary['dataset']}: {sizes} images", align(rows)]
    if relation := summary["relation"]:
        first, last = relation["scores"]
        parts.append(f"{first} and {last}: {_said(relation)}")
    parts += [
        _type_table(types, title, names[-1])
        for column, title in ((BY_FOLDER, "by folder"), (BY_RULE, "by rule"))
        if (types := summary["color_types"].get(column))
    ]
    if agreement := summary["color_types"].get("agreement"):
        parts.append(
            f"rule and folder name the same type for {agreement['share']:.1%} of "
            f"{agreement['images']:,} images"
        )
    for name, numbers in summary["measures"].items():
        parts.append(f"{name} and {names[-1]}: {_said(numbers)}")
    return "\n\n".join(parts)


def _type_table(types: dict[str, dict[str, Any]], title: str, score: str) -> str:
    """The color types that there are images of, in the order of ICAA17K's folders."""
    splits = [column for column in next(iter(types.values())) if column != "mean"]
    rows = [[f"color type {title}", *splits, f"mean {score}"]]
    for name, numbers in types.items():
        if numbers["all"]:
            counts = [f"{numbers[split]:,}" for split in splits]
            rows.append([name, *counts, f"{numbers['mean']:.2f}"])
    return align(rows)


def _said(correlation: dict[str, float]) -> str:
    if np.isnan(correlation["srcc"]):
        return "no correlation, as one of them is constant"
    return f"SRCC {correlation['srcc']:.2f}, PLCC {correlation['plcc']:.2f}"


def left_out(statistics: Statistics, summary: dict[str, Any]) -> list[str]:
    """What could not be shown, and why."""
    notes = []
    if summary["missing"]:
        notes.append(
            f"{summary['missing']:,} of {len(statistics.table):,} images are not there "
            f"({statistics.missing}, ...): no harmony, colorfulness and color type by rule of them"
        )
    if statistics.broken:
        notes.append(f"{len(statistics.broken)} images do not decode:")
        notes += [f"  {reason}" for reason in statistics.broken[:SHOWN]]
        more = len(statistics.broken) - SHOWN
        notes += [f"  ... and {more} more, in stats.json"] if more > 0 else []
    if not summary["color_types"]:
        notes.append("no color types: the images are not filed in ICAA17K's color folders")
    if summary["relation"] is None:
        notes.append("no relation of scores: there is only one")
    return notes


def save(statistics: Statistics, summary: dict[str, Any], folder: Path) -> None:
    """Write the files of the module's docstring that there are numbers for; each appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    run, table, name = RunFolder(folder), statistics.table, statistics.dataset

    def draw(file: str, function: Callable[..., None], *numbers: Any) -> None:
        with replacing(folder / file) as temporary:
            function(temporary, name, *numbers)

    draw("labels.png", save_labels, summary["labels"])
    if relation := summary["relation"]:
        draw("relation.png", save_relation, table, relation)
    if types := summary["color_types"]:
        draw("color_types.png", save_types, types.get(BY_FOLDER), types.get(BY_RULE))
    if summary["measures"]:
        score = statistics.names[-1]
        draw("measures.png", save_measures, statistics.measured, score, summary["measures"])
    run.write_json("stats.json", summary)
    with replacing(folder / "images.csv") as temporary:
        table.to_csv(temporary, index=False)


def show(spec: DataSpec, folder: Path, workers: int | None = None) -> None:
    """The command: tables and notes on the terminal, files in `folder`. Raises `UserError`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: give a folder")
    statistics = collect(spec, workers)
    summary = summarise(statistics)
    print(format_summary(summary))
    notes = left_out(statistics, summary)
    if notes:
        print("\nleft out:", *notes, sep="\n  ")
    save(statistics, summary, folder)
    print(f"\nfiles: {folder}")
