"""The labels of one split, and reading tables of labels with every cell checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from errors import UserError

AVA_RATINGS = np.arange(1, 11)  # the ratings that AVA's ten bins count


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set: its kind (`score`, `missing`, ...) and where it is."""

    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Labels:
    """N images of one split with T scores each.

    scores: N x T float64 on the label's own scale; AVA: N x 10 shares of the votes, rows sum to 1.
    unit_range: scores that become 0 and 1 for the network; (0, 10) is the released rating / 10.
    threshold: a rating above it counts as positive in the accuracy.
    rows: line number of each image in `source`, from 1, for messages.
    confidence: N float64 above 0, how sure the label of each image is; None where it was not read.
    """

    dataset: str
    split: str
    targets: tuple[str, ...]
    ids: list[str]
    paths: list[Path]
    scores: np.ndarray
    unit_range: tuple[float, float]
    threshold: float
    source: Path
    rows: list[int]
    confidence: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | np.ndarray, split: str | None = None) -> Labels:
        """The images at `indices`, in that order, as a split of the name `split`."""
        indices = [int(i) for i in indices]
        return replace(
            self,
            split=split or self.split,
            ids=[self.ids[i] for i in indices],
            paths=[self.paths[i] for i in indices],
            scores=self.scores[indices],
            rows=[self.rows[i] for i in indices],
            confidence=None if self.confidence is None else self.confidence[indices],
        )

    @property
    def unit_scores(self) -> np.ndarray:
        """Scores as the network predicts them: N x T float32 in [0, 1]."""
        low, high = self.unit_range
        return ((self.scores - low) / (high - low)).astype(np.float32)

    @property
    def rating(self) -> np.ndarray:
        """The score that results are reported on, N float64: the last target; AVA: mean rating."""
        return self.scores @ AVA_RATINGS if self.dataset == "ava" else self.scores[:, -1]

    def where(self, index: int) -> str:
        """File, row and id of an image, for messages."""
        return f"{self.source}, row {self.rows[index]} ({self.ids[index]})"


def read_table(path: Path, *, names: Sequence[str] | None = None, sep: str = ",") -> pd.DataFrame:
    """All cells of a CSV or spreadsheet as text, blank lines dropped; index = line number, from 1.

    names: the columns of a file that has no header line.
    Raises `UserError`: missing, unreadable or empty file.
    """
    try:
        if path.suffix.lower() == ".xlsx":
            table = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            table = pd.read_csv(
                path,
                sep=sep,
                names=names,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,  # so that the index stays the line number
                index_col=False,
                encoding="utf-8-sig",
            )
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty; a table with one image a row is needed") from None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None
    table = table.fillna("")
    table.columns = table.columns.str.strip()
    table.index = np.arange(len(table)) + (2 if names is None else 1)
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise UserError(f"{path} has no rows; a table with one image a row is needed")
    return table


def require_columns(table: pd.DataFrame, path: Path, columns: Sequence[str]) -> None:
    """Raise `UserError` naming the columns that `table` lacks and those it has."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(map(repr, missing))}; "
            f"its columns are {', '.join(map(repr, table.columns))}"
        )


def read_scores(
    table: pd.DataFrame,
    path: Path,
    columns: Sequence[str],
    limits: tuple[float, float],
    problems: list[Problem],
) -> np.ndarray:
    """N x T float64. Cells that are no number within `limits` are added to `problems`."""
    require_columns(table, path, columns)
    low, high = limits
    scores = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        scores[:, i] = pd.to_numeric(table[column], errors="coerce")
        wrong = ~((scores[:, i] >= low) & (scores[:, i] <= high))
        problems += [
            Problem("score", f"{path}, row {row}: {column} is {text!r}, not in {low:g}..{high:g}")
            for row, text in table[column][wrong].items()
        ]
    return scores


def with_confidence(
    labels: Labels, table: pd.DataFrame, column: str | None, problems: list[Problem]
) -> Labels:
    """`labels` with the confidences in `column`; of a test split nobody asks for them.

    Cells that are no number above 0 are added to `problems`.
    """
    if column is None or labels.split != "train":
        return labels
    require_columns(table, labels.source, [column])
    confidence = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    wrong = ~((confidence > 0) & np.isfinite(confidence))
    where = f"{labels.source}, row"
    problems += [
        Problem("confidence", f"{where} {row}: {column} is {text!r}, not a number above 0")
        for row, text in table[column][wrong].items()
    ]
    return replace(labels, confidence=confidence)


def photo_keys(labels: Labels) -> list[tuple[str | float, ...]]:
    """Equal for rows of one photograph: the same file name, in whatever folder, and equal scores.

    ICAA17K lists many a photograph in several color folders: 15,734 rows, 11,154 file names.
    """
    return [
        (path.name, *row) for path, row in zip(labels.paths, labels.scores.tolist(), strict=True)
    ]


def find_duplicates(labels: Labels) -> list[Problem]:
    """Images listed more than once in a split."""
    first: dict[Path, int] = {}
    return [
        Problem("duplicate", f"{labels.where(i)} repeats row {labels.rows[first[path]]}")
        for i, path in enumerate(labels.paths)
        if first.setdefault(path, i) != i
    ]


def find_overlap(train: Labels, test: Labels) -> list[Problem]:
    """Images listed in both splits."""
    trained = {path: i for i, path in enumerate(train.paths)}
    return [
        Problem("overlap", f"{test.where(i)} is also in the train split: {train.where(j)}")
        for i, path in enumerate(test.paths)
        if (j := trained.get(path)) is not None
    ]


def find_missing(labels: Labels) -> list[Problem]:
    """Images whose file is not there (nothing is decoded)."""
    return [
        Problem("missing", f"{labels.where(i)}: no image file {path}")
        for i, path in enumerate(labels.paths)
        if not path.is_file()
    ]
