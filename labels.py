"""The labels of every data set: `load_splits(DataSpec(...))` reads and checks them.

| name | labels, in the data root or one folder below | images, in the data root or beside labels |
|---|---|---|
| icaa17k | `1train.csv`, `1test.csv`: ID, color, MOS, probability | `.` or `images/` |
| sample | the built-in synthetic set, in the same layout (see `sample_data.py`) | `.` |
| spaq | `spaqTrain.csv`, `spaqTest.csv` (released), or `MOS and Image attribute scores` as `.xlsx`
  or `.csv` (official archive; 00001-10000 is train, as released) | `TestImage/`, `.` or `images/` |
| ava | `AVA.txt`; test ids in `generic_test.jpgl` | `images/`, `image/` or `.` |
| csv | any tables: see `--train-csv`, `--image-column`, `--score-columns`, `--score-range` | the
  data root (else the table's folder) or `images/` in it |
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import images
import sample_data
from errors import UserError
from label_table import (
    AVA_RATINGS,
    Labels,
    Problem,
    find_duplicates,
    find_missing,
    find_overlap,
    photo_keys,
    read_scores,
    read_table,
    require_columns,
    with_confidence,
)

__all__ = [
    "DATASETS",
    "Broken",
    "DataSpec",
    "Labels",
    "drop_broken",
    "load_splits",
    "split_by_score",
]

log = logging.getLogger(__name__)

HOW_TO_GET = {
    "icaa17k": "ICAA17K is Google Drive file 18PDtXiQNqHe8NUFK9jpuAjBp2MxRjRGM: unpack it there",
    "sample": "",
    "spaq": "get SPAQ from https://github.com/h4nwei/SPAQ, mend the split zip (zip -FF), unpack it",
    "ava": "get AVA.txt and the images from https://github.com/imfing/ava_downloader",
    "csv": "give the folder of your images as --data-root or --image-root",
}
DATASETS = tuple(HOW_TO_GET)
OPTION_FOR = {  # options that only some data sets know
    "targets": ("icaa17k", "sample", "spaq"),
    "train_csv": ("csv",),
    "test_csv": ("csv",),
    "image_column": ("csv",),
    "score_columns": ("csv",),
    "score_range": ("csv",),
    "test_list": ("ava",),
    "confidence_column": ("icaa17k", "sample", "csv"),
}
SPAQ_TARGETS = ("MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
SPAQ_LAST_TRAIN = 10_000  # the released split: 00001-10000 train, 10001-11125 test
AVA_TEST_SHARE = 20_000 / 255_530  # of the official split, used where its list is not at hand
AVA_VOTES = [f"votes_{rating}" for rating in AVA_RATINGS]
AVA_COLUMNS = ["row", "image_id", *AVA_VOTES, "tag_1", "tag_2", "challenge"]


@dataclass(frozen=True)
class DataSpec:
    """Which data set, where it lies, and how to read it (each field is a command line flag).

    image_root: folder of the images, instead of the candidates in the table above.
    image_column: csv; the first column where not given.
    score_range: csv; the lowest and highest rating possible, which become 0 and 1.
    test_list: ava; file of test image ids.
    threshold: a rating above it is positive; 5, or the middle of `score_range`, where not given.
    confidence_column: icaa17k, sample, csv; how sure the labels of train are, read where given.
    require_images: a missing image file is an error; False leaves it to `drop_broken`.
    """

    name: str
    data_root: Path
    targets: tuple[str, ...] | None = None
    train_csv: Path | None = None
    test_csv: Path | None = None
    image_root: Path | None = None
    image_column: str | None = None
    score_columns: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    test_list: Path | None = None
    threshold: float | None = None
    confidence_column: str | None = None
    require_images: bool = True

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise UserError(f"unknown data set {self.name!r}; known are {', '.join(DATASETS)}")
        for option, known in OPTION_FOR.items():
            if getattr(self, option) and self.name not in known:
                flag = "--" + option.replace("_", "-")
                raise UserError(f"{flag} is for {', '.join(known)} only, not for {self.name}")
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise UserError(f"--score-range {self.score_range}: the low end must be the lower one")


def load_splits(spec: DataSpec) -> dict[str, Labels]:
    """`{"train": ..., "test": ...}`; no "test" for csv without a test table.

    Raises `UserError` on the first of: data not there, a column not there, a score that is no
    number in range, an image twice in a split or in both splits, a missing image file.
    """
    check_scores_given(spec)
    problems: list[Problem] = []
    splits = read_splits(spec, problems)
    for labels in splits.values():
        problems += find_duplicates(labels)
        problems += find_missing(labels) if spec.require_images else []
    if "test" in splits:
        problems += find_overlap(splits["train"], splits["test"])
    if problems:
        first, more = problems[0], len(problems) - 1
        alike = sum(problem.kind == first.kind for problem in problems)
        hint = "; --skip-broken goes on without" if first.kind == "missing" else ""
        raise UserError(
            f"{first.message} ({alike} such rows, {more} problems more; "
            f"`python dataset.py verify` lists them{hint})"
        )
    return splits


def check_scores_given(spec: DataSpec) -> None:
    """Raise `UserError` where a csv's scores or their range are not named."""
    if spec.name == "csv" and not (spec.score_columns and spec.score_range):
        raise UserError("csv needs --score-columns (e.g. beauty) and --score-range (e.g. 1,7)")


def read_splits(spec: DataSpec, problems: list[Problem]) -> dict[str, Labels]:
    """`load_splits` without its checks; cells that are no usable score are added to `problems`."""
    if spec.name == "sample":
        sample_data.ensure_sample(spec.data_root)
    for folder in (spec.data_root, spec.image_root):
        if folder is not None and not folder.is_dir():
            raise UserError(f"no data folder {folder}. {HOW_TO_GET[spec.name]}")
    readers = {
        "icaa17k": _read_icaa17k,
        "sample": _read_icaa17k,
        "spaq": _read_spaq,
        "ava": _read_ava,
        "csv": _read_csv,
    }
    return {labels.split: labels for labels in readers[spec.name](spec, problems)}


def _read_icaa17k(spec: DataSpec, problems: list[Problem]) -> Iterator[Labels]:
    targets = spec.targets or ("MOS", "color")
    for split in ("train", "test"):
        path = _find_file(spec, f"1{split}.csv")
        table = read_table(path)
        require_columns(table, path, ["ID"])
        scores = read_scores(table, path, targets, (0, 10), problems)
        labels = _labels(spec, split, targets, table["ID"], scores, path, ("", "images"))
        yield with_confidence(labels, table, spec.confidence_column, problems)


def _read_spaq(spec: DataSpec, problems: list[Problem]) -> Iterator[Labels]:
    targets = spec.targets or ("Colorfulness",)
    official = "MOS and Image attribute scores"
    path = _find_file(spec, "spaqTrain.csv", f"{official}.xlsx", f"{official}.csv")
    released = path.name == "spaqTrain.csv"
    for split in ("train", "test"):
        if released and split == "test":
            path = _find_file(spec, "spaqTest.csv")
        table = read_table(path)
        id_column = "image_id" if "image_id" in table.columns else "Image name"
        require_columns(table, path, [id_column, *targets])
        if not released:
            number = pd.to_numeric(table[id_column].str.split(".").str[0], errors="coerce")
            table = table[(number <= SPAQ_LAST_TRAIN) == (split == "train")]
        # Copies come on 0..10 and 0..100; the median tells, where one wrong cell could mislead.
        typical = pd.to_numeric(table[targets[-1]], errors="coerce").median()
        scale = 100 if typical > 10 else 10
        scores = read_scores(table, path, targets, (0, scale), problems) * (10 / scale)
        yield _labels(
            spec, split, targets, table[id_column], scores, path, ("TestImage", "", "images")
        )


def _read_ava(spec: DataSpec, problems: list[Problem]) -> Iterator[Labels]:
    path = _find_file(spec, "AVA.txt")
    table = read_table(path, names=AVA_COLUMNS, sep=" ")
    votes = read_scores(table, path, AVA_VOTES, (0, np.inf), problems)
    total = votes.sum(axis=1, keepdims=True)
    unrated = table.index[total[:, 0] == 0]
    problems += [Problem("score", f"{path}, row {row}: no votes at all") for row in unrated]
    scores = votes / np.where(total == 0, np.nan, total)
    in_test = _ava_test_images(spec, path, table["image_id"])
    targets = tuple(map(str, AVA_RATINGS))
    for split, chosen in (("train", ~in_test), ("test", in_test)):
        ids = table["image_id"][chosen] + ".jpg"
        yield _labels(spec, split, targets, ids, scores[chosen], path, ("images", "image", ""))


def _ava_test_images(spec: DataSpec, path: Path, ids: pd.Series) -> np.ndarray:
    """Boolean N: the official test list's images, or a fixed random share where there is none."""
    usual = path.parent / "aesthetics_image_lists" / "generic_test.jpgl"
    test_list = spec.test_list or (usual if usual.is_file() else None)
    if test_list is None:
        log.warning(
            "AVA: no test list (%s or --test-list); %.2f %% of the images, drawn with seed 0, "
            "are the test split, which is not the official one",
            usual,
            100 * AVA_TEST_SHARE,
        )
        return np.random.default_rng(0).random(len(ids)) < AVA_TEST_SHARE
    wanted = set(read_table(test_list, names=["image_id"])["image_id"])
    in_test = ids.isin(wanted).to_numpy()
    if not in_test.any():
        raise UserError(f"{test_list} names no image of {path}; one image id a line is needed")
    return in_test


def _read_csv(spec: DataSpec, problems: list[Problem]) -> Iterator[Labels]:
    if spec.train_csv is None:
        raise UserError("csv needs --train-csv, a table with one image a row")
    for split, name in (("train", spec.train_csv), ("test", spec.test_csv)):
        if name is None:
            continue
        path = name if name.is_file() else spec.data_root / name
        table = read_table(path)
        column = spec.image_column or table.columns[0]
        require_columns(table, path, [column])
        limits = spec.score_range or (-np.inf, np.inf)
        scores = read_scores(table, path, spec.score_columns, limits, problems)
        targets, ids = spec.score_columns, table[column]
        labels = _labels(spec, split, targets, ids, scores, path, ("", "images"))
        yield with_confidence(labels, table, spec.confidence_column, problems)


def _find_file(spec: DataSpec, *names: str) -> Path:
    """The first of `names` that lies in the data root or one folder below it."""
    for name in names:
        found = [spec.data_root / name, *sorted(spec.data_root.glob(f"*/{name}"))]
        if found := [path for path in found if path.is_file()]:
            return found[0]
    raise UserError(
        f"{spec.data_root} has no {' and no '.join(names)}, neither directly nor one folder "
        f"below. {HOW_TO_GET[spec.name]}"
    )


def _labels(
    spec: DataSpec,
    split: str,
    targets: tuple[str, ...],
    ids: pd.Series,
    scores: np.ndarray,
    source: Path,
    folders: Sequence[str],
) -> Labels:
    """Labels with the images found in the first of `folders` that holds any of them.

    `folders` are looked for in the data root, then beside the table; --image-root comes instead.
    """
    roots = [base / name for base in (spec.data_root, source.parent) for name in folders]
    if spec.image_root is not None:
        roots = [spec.image_root]
    probes = ids.iloc[:: max(1, len(ids) // 20)]  # a few images of a good copy may be missing
    held = (root for root in roots if any((root / name).is_file() for name in probes))
    root = next(held, None)
    pickles = (path for root in roots for path in root.glob("*.pkl"))
    if root is None and spec.name == "spaq" and (pickled := next(pickles, None)):
        raise UserError(
            f"{pickled.parent} holds pickled images (.pkl), which are not read: a pickle can run "
            "code. Use SPAQ's JPEGs (TestImage/ of the official archive)"
        )
    root = root or roots[0]
    low, high = {"csv": spec.score_range or (0, 1), "ava": (0, 1)}.get(spec.name, (0, 10))
    middle = (low + high) / 2 if spec.name == "csv" else 5.0
    return Labels(
        dataset=spec.name,
        split=split,
        targets=targets,
        ids=ids.tolist(),
        paths=[root / name for name in ids],
        scores=scores,
        unit_range=(float(low), float(high)),
        threshold=middle if spec.threshold is None else spec.threshold,
        source=source,
        rows=ids.index.tolist(),
    )


@dataclass(frozen=True)
class Broken:
    """An image that was left out: its label's place, and why it cannot be used."""

    where: str
    path: Path
    reason: str


def drop_broken(labels: Labels, workers: int | None = None) -> tuple[Labels, list[Broken]]:
    """Decode every image; returns the labels of those that decode, and the others with reasons."""
    errors = images.parallel_map(images.decode_error, labels.paths, workers, "decoding")
    broken = [
        Broken(labels.where(i), labels.paths[i], error)
        for i, error in enumerate(errors)
        if error is not None
    ]
    good = [i for i, error in enumerate(errors) if error is None]
    if not good:
        raise UserError(f"{labels.source}: no image can be used, e.g. {errors[0]}")
    return labels.subset(good), broken


def split_by_score(labels: Labels, fraction: float, seed: int) -> tuple[Labels, Labels]:
    """(rest, held out): about `fraction` of the images, spread evenly over the reported score.

    The photographs, sorted by their rating, are cut into runs of equal length, and one of each run
    is held out. Rows of one photograph (see `photo_keys`) stay together, so that the network has
    not seen what it is judged on. Raises `UserError` when either part would be empty.
    """
    rows_of: dict[tuple, list[int]] = {}
    for i, photo in enumerate(photo_keys(labels)):
        rows_of.setdefault(photo, []).append(i)
    photos = list(rows_of.values())
    held = round(fraction * len(photos))
    if not 0 < held < len(photos):
        raise UserError(
            f"a share of {fraction:g} of {len(photos)} photographs leaves one part empty"
        )
    by_rating = np.argsort(labels.rating[[rows[0] for rows in photos]], kind="stable")
    rng = np.random.default_rng(seed)
    drawn = [photos[rng.choice(run)] for run in np.array_split(by_rating, held)]
    in_held = np.zeros(len(labels), dtype=bool)
    in_held[np.concatenate(drawn)] = True
    return labels.subset(np.flatnonzero(~in_held)), labels.subset(np.flatnonzero(in_held), "val")
