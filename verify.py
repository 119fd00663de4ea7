"""Checks of data sets on disk: is one complete and sound, and does one leak into another?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.stats import spearmanr

import images
import sample_data
from errors import UserError
from label_table import Labels, Problem, find_duplicates, find_missing, find_overlap, photo_keys
from labels import DataSpec, check_scores_given, read_splits

SPLIT_SIZES = {
    "icaa17k": {"train": 15_734, "test": 1_617},
    "spaq": {"train": 10_000, "test": 1_125},
}
ICAA17K_FOLDERS = dict.fromkeys(sample_data.FOLDERS, (499, 500)) | {
    "monochromatic/darkorange": (994,),
    "monochromatic/darkyellow": (1_189,),
    "monochromatic/orange": (1_088,),
    "monochromatic/red": (1_087,),
}
SHOWN = 5  # problems of one kind that are printed in full


@dataclass(frozen=True)
class Report:
    """What `verify` found: sound where there are no problems."""

    splits: dict[str, Labels]
    problems: list[Problem]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """No problems."""
        return not self.problems

    def __str__(self) -> str:
        """A table of label statistics, the notes, and the first problems of each kind."""
        head = ("split", "images", "folders", "lowest", "mean", "highest", "positive", "SRCC *")
        lines = ["".join(f"{cell:>10}" for cell in head)]
        lines += [_statistics(name, [labels]) for name, labels in self.splits.items()]
        lines.append(_statistics("all", list(self.splits.values())))
        targets = next(iter(self.splits.values())).targets
        lines.append(f"scores are {targets[-1]}; * of {targets[0]} and {targets[-1]}")
        lines += [f"note: {note}" for note in self.notes]
        for kind, count in Counter(problem.kind for problem in self.problems).items():
            lines.append(f"{kind}: {count} problems")
            messages = [problem.message for problem in self.problems if problem.kind == kind]
            lines += [f"  {message}" for message in messages[:SHOWN]]
            lines += [f"  ... and {count - SHOWN} more"] if count > SHOWN else []
        lines.append("all is well" if self.ok else f"{len(self.problems)} problems")
        return "\n".join(lines)


def _statistics(name: str, splits: list[Labels]) -> str:
    """One line of the report's table; cells that are no number are left out of it."""
    rating = np.concatenate([labels.rating for labels in splits])
    other = np.concatenate([labels.scores[:, 0] for labels in splits])
    folders = {path.parent for labels in splits for path in labels.paths}
    numeric = np.isfinite(rating) & np.isfinite(other)
    text = f"{name:>10}{len(rating):>10,}{len(folders):>10}"
    if not numeric.any():
        return text
    rating, other = rating[numeric], other[numeric]
    positive = f"{(rating > splits[0].threshold).mean():.1%}"
    two = splits[0].dataset != "ava" and len(splits[0].targets) > 1
    correlation = f"{spearmanr(rating, other).statistic:.2f}" if two else "-"
    text += f"{rating.min():>10.2f}{rating.mean():>10.2f}{rating.max():>10.2f}"
    return text + f"{positive:>10}{correlation:>10}"


def verify(spec: DataSpec, workers: int | None = None) -> Report:
    """Check every row and file of a data set; raises `UserError` only where nothing can be read.

    Problems are: scores that are no number in range, images listed twice or in both splits,
    missing or broken image files, equal files in train and test, counts other than published.
    """
    check_scores_given(spec)
    problems: list[Problem] = []
    splits = read_splits(spec, problems)
    for labels in splits.values():
        problems += find_duplicates(labels) + find_missing(labels)
    if "test" in splits:
        problems += find_overlap(splits["train"], splits["test"])
    hashes = {}
    for name, labels in splits.items():
        found = images.parallel_map(_decode_and_hash, labels.paths, workers, f"{name} images")
        hashes[name] = [content for content, _ in found]
        problems += [
            Problem("broken", f"{labels.where(i)}: {error}")
            for i, (_, error) in enumerate(found)
            if error is not None
        ]
    notes = _compare_content(splits, hashes, problems)
    problems += _check_counts(spec.name, splits)
    return Report(splits, problems, notes)


def _decode_and_hash(path: Path) -> tuple[str | None, str | None]:
    """(content hash, why it does not decode); (None, None) for a file that is missing."""
    if not path.is_file():
        return None, None
    error = images.decode_error(path)
    return (None, error) if error else (images.content_hash(path), None)


def _compare_content(
    splits: dict[str, Labels], hashes: dict[str, list[str | None]], problems: list[Problem]
) -> list[str]:
    """Notes on photographs listed several times; equal files in train and test are problems.

    ICAA17K as published lists many a photograph in several color folders, under one name with
    equal scores, some in train and test: such pairs are noted, other equal files are problems.
    """
    notes = []
    for name, contents in hashes.items():
        known = [content for content in contents if content is not None]
        if copies := len(known) - len(set(known)):
            notes.append(f"{copies:,} {name} images are byte for byte copies of others in {name}")
    if "test" not in splits:
        return notes
    train, test = splits["train"], splits["test"]
    train_photos, test_photos = photo_keys(train), photo_keys(test)
    trained = set(train_photos)
    if shared := sum(photo in trained for photo in test_photos):
        notes.append(
            f"{shared:,} of {len(test):,} test images have a namesake with the same scores in the "
            "train split, in another folder: presumably the same photographs"
        )
    first = {content: i for i, content in enumerate(hashes["train"]) if content is not None}
    for i, content in enumerate(hashes["test"]):
        j = first.get(content)
        if j is None or train.paths[j] == test.paths[i] or train_photos[j] == test_photos[i]:
            continue
        problems.append(
            Problem("leak", f"{test.where(i)} has the content of a train image: {train.where(j)}")
        )
    return notes


def _check_counts(dataset: str, splits: dict[str, Labels]) -> list[Problem]:
    """Rows per split and, for ICAA17K, per color folder, against the published numbers."""
    problems = [
        Problem("count", f"{name}: {len(splits[name]):,} rows, published are {size:,}")
        for name, size in SPLIT_SIZES.get(dataset, {}).items()
        if len(splits[name]) != size
    ]
    if dataset != "icaa17k":
        return problems
    found = Counter(
        str(PurePosixPath(name).parent) for labels in splits.values() for name in labels.ids
    )
    for folder in sorted(found.keys() | ICAA17K_FOLDERS.keys()):
        sizes = ICAA17K_FOLDERS.get(folder, (0,))
        if found[folder] not in sizes:
            published = " or ".join(map(str, sizes))
            problems.append(
                Problem("count", f"{folder}: {found[folder]} rows, published are {published}")
            )
    return problems


@dataclass(frozen=True)
class Leaks:
    """Test images of one set that another's train split holds."""

    title: str
    tested: int
    leaked: int  # test images recognised by any mark
    unread: int  # images of the two splits without a readable file: compared by name only
    found: dict[str, list[str]]  # "path", "name", "content" -> one line per image

    def __str__(self) -> str:
        counts = ", ".join(f"{len(lines):,} by {mark}" for mark, lines in self.found.items())
        text = [f"{self.title}: {self.leaked:,} of {self.tested:,} ({counts})"]
        if self.unread:
            text.append(f"  {self.unread:,} image files cannot be read: compared by name only")
        for mark, lines in self.found.items():
            text += [f"  {mark}: {line}" for line in lines[:SHOWN]]
        return "\n".join(text)


def leakage(first: DataSpec, second: DataSpec, workers: int | None = None) -> list[Leaks]:
    """Test images of each set in the other's train split: [first in second, second in first].

    Recognised by relative path and by file name, both without suffix and case, and by content.
    """
    marked = []
    for spec in (first, second):
        splits = read_splits(spec, problems=[])  # scores play no part
        if "test" not in splits:
            raise UserError(f"{spec.name} at {spec.data_root} has no test split to look for")
        marks = {name: _marks(labels, workers) for name, labels in splits.items()}
        marked.append((f"{spec.name} at {spec.data_root}", splits, marks))
    return [_find_leaks(a, b) for a, b in (marked, marked[::-1])]


def _marks(labels: Labels, workers: int | None) -> dict[str, list[str | None]]:
    """What each image can be recognised by; names of digits alone tell nothing and are None."""
    plain = [PurePosixPath(name).with_suffix("") for name in labels.ids]
    paths = [str(path).casefold() for path in plain]
    names = [path.name.casefold() for path in plain]
    hashes = images.parallel_map(_hash_or_none, labels.paths, workers, f"hashing {labels.dataset}")
    return {
        "path": [None if path.isdigit() else path for path in paths],
        "name": [None if name.isdigit() else name for name in names],
        "content": hashes,
    }


def _hash_or_none(path: Path) -> str | None:
    return images.content_hash(path) if path.is_file() else None


Marked = tuple[str, dict[str, Labels], dict[str, dict[str, list[str | None]]]]


def _find_leaks(tested: Marked, trained: Marked) -> Leaks:
    test, train = tested[1]["test"], trained[1]["train"]
    test_marks, train_marks = tested[2]["test"], trained[2]["train"]
    found, leaked = {}, set()
    for mark in test_marks:
        seen = {value: j for j, value in enumerate(train_marks[mark]) if value is not None}
        hits = {i: seen[value] for i, value in enumerate(test_marks[mark]) if value in seen}
        found[mark] = [f"{test.where(i)} is {train.where(j)}" for i, j in hits.items()]
        leaked |= hits.keys()
    unread = (test_marks["content"] + train_marks["content"]).count(None)
    title = f"test of {tested[0]} in train of {trained[0]}"
    return Leaks(title, len(test), len(leaked), unread, found)
