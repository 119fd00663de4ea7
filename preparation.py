"""Making prepared images: `python dataset.py prepare NAME` (what they are: `prepared.py`).

Shard after shard: what is there is checked, what is missing, out of date or damaged is decoded in
threads, and the shard is written anew, whole. So an interrupted preparation goes on where it was,
and one more of a finished set is a check of its files. A lock makes processes take turns; the later
one finds the work done.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

import images
from config import DATASET_DEFAULTS
from errors import UserError
from labels import Broken, DataSpec, Labels, load_splits
from models.options import ARCHITECTURES, OPTIONS
from prepared import (
    SHARDS,
    DamagedError,
    Entry,
    Transform,
    image_names,
    read_shard,
    shard_number,
    shard_path,
    write_shard,
)

Found = dict[Entry, Tensor]  # images of a shard with their pixels, 3 x S x S uint8


@dataclass(frozen=True)
class Wanted:
    """An image that is to be prepared: its file, its place in the labels, and for what."""

    path: Path
    where: str
    transforms: set[Transform]


@dataclass
class Outcome:
    """What a preparation found and did; an image counts once for each of its transforms."""

    sound: int = 0  # were there, as they were written
    decoded: int = 0
    outdated: int = 0  # were there, but their file has changed or gone
    damaged: list[Path] = field(default_factory=list)  # shards that were not as written
    broken: list[Broken] = field(default_factory=list)
    bytes: int = 0  # on disk

    def __str__(self) -> str:
        lines = [
            f"{self.sound:,} were there, {self.decoded:,} decoded and resized,"
            f" {self.outdated:,} of earlier files dropped; {self.bytes / 1e9:.2f} GB on disk",
            *(f"damaged, made anew: {path}" for path in self.damaged),
        ]
        return "\n".join(lines)


def needed_transforms(
    image_size: int, resize_ratio: float, *, aspect: str, draft: bool
) -> dict[str, set[Transform]]:
    """What each split is read as: train before its random crop and, since the validation images
    are a part of it that the seed chooses, at the network's own size, too; test at that size."""
    train, test = (
        Transform.of(image_size, resize_ratio, train=train, aspect=aspect, draft=draft)
        for train in (True, False)
    )
    return {"train": {train, test}, "test": {test}}


def prepare(
    splits: Mapping[str, Labels],
    transforms: Mapping[str, set[Transform]],
    *,
    folder: Path,
    root: Path,
    workers: int | None = None,
) -> Outcome:
    """Bring the prepared images of `splits` in `folder` up to date, each split with its transforms.

    root: the data root, which names are relative to. workers: threads that decode; None: one per
    CPU core. Images of other data sets in the folder stay, unless their file has changed. Images
    that cannot be decoded are in the outcome. Raises `UserError` if the folder cannot be written.
    """
    wanted: dict[int, dict[str, Wanted]] = defaultdict(dict)
    for split, labels in splits.items():
        for i, name in enumerate(image_names(labels.paths, root)):
            image = Wanted(labels.paths[i], labels.where(i), set())
            same = wanted[shard_number(name)].setdefault(name, image)
            same.transforms.update(transforms[split])
    everything = sorted(set().union(*transforms.values()))
    total = sum(map(len, wanted.values()))
    outcome = Outcome()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            _turn(folder),
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
            tqdm(desc="preparing", total=total, unit="image", disable=None, leave=False) as bar,
        ):
            for number in range(SHARDS):
                paths = {t: shard_path(folder, t, number) for t in everything}
                _prepare_shard(paths, wanted[number], root, pool, outcome)
                bar.update(len(wanted[number]))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: prepared images cannot be written there: {error}") from None
    return outcome


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares images in `folder`. A killed one leaves no lock."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process prepares images there; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare_shard(
    paths: Mapping[Transform, Path],
    wanted: Mapping[str, Wanted],
    root: Path,
    pool: ThreadPoolExecutor,
    outcome: Outcome,
) -> None:
    """Check one shard of each transform and write it anew if anything in it has to change."""
    kept, stale = {}, set()
    for transform, path in paths.items():
        kept[transform], all_kept = _check(path, root, pool, outcome)
        if not all_kept:
            stale.add(transform)
    missing: dict[str, list[Transform]] = {}
    for transform, found in kept.items():
        there = {entry.name for entry in found}
        for name, image in wanted.items():
            if transform in image.transforms and name not in there:
                missing.setdefault(name, []).append(transform)
            elif transform in image.transforms:
                outcome.sound += 1

    decoded = pool.map(lambda item: _decode(*item, wanted[item[0]].path), missing.items())
    for name, result in zip(missing, decoded, strict=True):
        if isinstance(result, images.ImageError):
            outcome.broken.append(Broken(wanted[name].where, wanted[name].path, str(result)))
            continue
        entry, pixels = result
        for transform in missing[name]:
            kept[transform][entry] = pixels[transform]
            stale.add(transform)
            outcome.decoded += 1

    for transform, path in paths.items():
        if transform in stale and kept[transform]:
            write_shard(path, list(kept[transform].items()))
        elif transform in stale:
            path.unlink()
        outcome.bytes += path.stat().st_size if path.is_file() else 0


def _check(
    path: Path, root: Path, pool: ThreadPoolExecutor, outcome: Outcome
) -> tuple[Found, bool]:
    """The images of a shard that may stay, and whether those are all."""
    try:
        shard = read_shard(path)
    except DamagedError:
        outcome.damaged.append(path)
        return {}, False
    if shard is None:
        return {}, True
    current = [row for row, entry in enumerate(shard.entries) if _is_current(entry, root)]
    checked = zip(current, pool.map(shard.is_sound, current), strict=True)
    sound = [row for row, is_sound in checked if is_sound]
    outcome.outdated += len(shard.entries) - len(current)
    if len(sound) < len(current):
        outcome.damaged.append(path)
    all_kept = len(sound) == len(shard.entries)
    return {shard.entries[row]: shard.pixels[row] for row in sound}, all_kept


def _is_current(entry: Entry, root: Path) -> bool:
    """Whether the image's file is still the one that was decoded."""
    try:
        return Entry.of(entry.name, root / entry.name) == entry
    except OSError:
        return False


def _decode(
    name: str, transforms: Sequence[Transform], path: Path
) -> tuple[Entry, dict[Transform, Tensor]] | images.ImageError:
    """An image's pixels for each transform, decoded once (with `draft`: once a transform); or what
    is wrong with it."""
    try:
        entry = Entry.of(name, path)  # first: a file that changes while it is read is out of date
        opened = {side: images.open_rgb(path, side) for side in {t.least_side for t in transforms}}
    except OSError as error:
        return images.ImageError(f"{path}: cannot be read ({error.strerror})")
    except images.ImageError as error:
        return error
    return entry, {t: t.apply(opened[t.least_side]) for t in transforms}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `dataset.py prepare`; they mean what train_nni.py's of the same names mean."""
    group = parser.add_argument_group("prepared images")
    add = group.add_argument
    add("--size", type=int, help="side of the network's input (default: of the set's network)")
    add("--prepared", type=Path, metavar="DIR", help="folder (default: prepared in the data root)")
    add("--resize-ratio", type=float, help="of train, times --size (default: the data set's)")
    add("--aspect", choices=OPTIONS["aspect"].choices, default=OPTIONS["aspect"].ours)
    add("--draft", action="store_true", help="decode large JPEGs at a fraction of their size")
    add("--skip-broken", action="store_true", help="images that do not decode are no error")


def command(args: argparse.Namespace, spec: DataSpec) -> int:
    """`dataset.py prepare`; returns the exit code.

    Raises `UserError` where images do not decode, after the others have been prepared.
    """
    defaults = DATASET_DEFAULTS[args.dataset]
    size = args.size or ARCHITECTURES[defaults.get("model", "delegate_base")].image_size
    ratio = args.resize_ratio or defaults.get("resize_ratio", 1.0)
    if size < 1 or ratio < 1:
        raise UserError(f"--size {size} and --resize-ratio {ratio:g} must be 1 or more")
    folder = args.prepared or spec.data_root / "prepared"
    transforms = needed_transforms(size, ratio, aspect=args.aspect, draft=args.draft)
    splits = load_splits(replace(spec, require_images=not args.skip_broken))
    start = perf_counter()
    outcome = prepare(splits, transforms, folder=folder, root=spec.data_root, workers=args.workers)
    names = ", ".join(sorted({t.folder for needed in transforms.values() for t in needed}))
    print(f"{folder}: {names}: {outcome}\n{perf_counter() - start:.1f} s")
    for image in outcome.broken:
        print(f"{image.where}: {image.reason}")
    if outcome.broken and not args.skip_broken:
        raise UserError(
            f"{len(outcome.broken)} images cannot be prepared, listed above; mend them, or go on "
            "without them: --skip-broken, here and in training"
        )
    return 0
