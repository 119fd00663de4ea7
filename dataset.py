"""Images and their scores as tensors, and the commands that look after data sets.

    python dataset.py sample                                  # generate the built-in data set
    python dataset.py verify icaa17k --data-root data/icaa17k # check every file and label
    python dataset.py leakage icaa17k=data/icaa17k csv=data/icaa20k   # csv: train.csv, test.csv
    python dataset.py prepare icaa17k --data-root data/icaa17k        # decode every image once
    python dataset.py stats icaa17k --data-root data/icaa17k  # draw labels, colors, their relation

Transforms, as released (aspect ratio not kept, ImageNet mean and std):
train: resize to R x R, flip with probability 1/2, crop S x S at random; test: resize to S x S.
A data set resizes; the rest is done to whole batches on the network's device (`augmentation.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

import dataset_stats
import images
import preparation
import sample_data
import verify
from augmentation import PixelBatch, draw
from errors import UserError, run_cli
from labels import DATASETS, DataSpec, Labels, load_splits
from prepared import PreparedImages, Transform

CACHE_LIMIT = 512 * 2**20  # bytes of resized images that are kept in memory without being asked

Batch = tuple[PixelBatch, torch.Tensor, torch.Tensor]  # images, targets B x T, indices B


class ColorDataset(Dataset):
    """Images of a split, a batch at a time: 8-bit images with what is to be done to them, targets
    B x T float32 in [0, 1], indices B int64.

    image_size: S. transform: to R x R, the side before the random crop; R is S without `train`.
    train: augment. The flip and crop of an image depend on (seed, epoch, i) alone, not on order
    or workers, so that a resumed run sees what an uninterrupted one would have seen.
    prepared: where the resized images are read from, all of them; None: the originals are decoded.
    cache: keep decoded images in memory, in the main process; None: if below 512 MB.
    """

    def __init__(
        self,
        labels: Labels,
        *,
        image_size: int,
        transform: Transform,
        train: bool,
        seed: int = 0,
        prepared: PreparedImages | None = None,
        cache: bool | None = None,
    ) -> None:
        room = transform.side - image_size
        if room < 0 or (room and not train):
            raise UserError(f"images of side {transform.side} do not fit a network's {image_size}")
        self.labels, self.image_size, self.train, self.seed = labels, image_size, train, seed
        self.transform, self.prepared = transform, prepared
        self.targets = torch.from_numpy(labels.unit_scores)  # N x T
        small = len(labels) * 3 * self.transform.side**2 < CACHE_LIMIT
        self.cache: dict[int, torch.Tensor] | None = (
            {} if (small if cache is None else cache) else None
        )
        # Shared, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def epoch(self) -> int:
        """The epoch that flips, crops and order are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation and order come next."""
        self._epoch.fill_(epoch)

    def __getitems__(self, indices: list[int]) -> Batch:
        if self.prepared is not None:
            pixels = self.prepared.gather(indices)
        else:
            pixels = torch.stack([self._pixels(index) for index in indices])
        draws = None
        if self.train:
            epoch, room = self.epoch, self.transform.side - self.image_size
            draws = torch.tensor([draw(self.seed, epoch, index, room) for index in indices])
        index = torch.tensor(indices)
        return PixelBatch(pixels, self.image_size, draws), self.targets[index], index

    def _pixels(self, index: int) -> torch.Tensor:
        # A worker's cache would be one more copy, of an ever changing share of the images.
        cache = self.cache if get_worker_info() is None else None
        if cache is not None and index in cache:
            return cache[index]
        try:
            pixels = self.transform.load(self.labels.paths[index])
        except images.ImageError as error:
            raise images.ImageError(
                f"{self.labels.where(index)}: {error}; --skip-broken goes on without it"
            ) from None
        if cache is not None:
            cache[index] = pixels
        return pixels


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, every index once an epoch; the last batch may be smaller.

    shuffle: the order is drawn from (seed, the data set's epoch) alone, and of each batch every
    one of `world` processes gets an equal part (of the last batch: as equal as can be; where there
    is none left, its first image, which `weight` leaves out). Without it, whole batches go to the
    processes in turn, so that what a network makes of a batch does not depend on their number.
    """

    def __init__(
        self,
        dataset: ColorDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self.steps = -(-len(dataset) // batch_size)  # batches of all processes
        self.first = 0  # shuffle: leave out the batches before it, where a stopped epoch goes on

    def __len__(self) -> int:
        if self.shuffle:
            return self.steps - self.first
        return len(range(self.rank, self.steps, self.world))

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self.dataset)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.dataset.epoch)).permutation(count)
        batches = [
            order[start : start + self.batch_size].tolist()
            for start in range(0, count, self.batch_size)
        ]
        if not self.shuffle:
            yield from batches[self.rank :: self.world]
            return
        for batch in batches[self.first :]:
            yield batch[self.rank :: self.world] or batch[:1]

    def size(self, step: int) -> int:
        """Images of batch `step`, of all processes."""
        return min(self.batch_size, len(self.dataset) - step * self.batch_size)

    def weight(self, step: int) -> float:
        """Factor on the mean over this process's part of batch `step`, which makes the mean over
        the processes that over the whole batch: 1 where the parts are equal."""
        size = self.size(step)
        return len(range(self.rank, size, self.world)) * self.world / size


class ColorLoader(DataLoader):
    """A DataLoader whose workers' `UserError`s arrive without the workers' traceback."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except UserError as error:
            if self.num_workers == 0:
                raise
            last_line = str(error).strip().splitlines()[-1]
            raise UserError(last_line.partition(": ")[2]) from None


def _as_it_is(batch: Batch) -> Batch:
    """In the place of torch's collation: the data set makes batches."""
    return batch


def make_loader(
    dataset: ColorDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Batches of a `ColorDataset`, see `EpochBatches`; this process's, if there are several."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: at least 1 is needed")
    return ColorLoader(
        dataset,
        batch_sampler=EpochBatches(
            dataset, batch_size, shuffle=shuffle, seed=seed, rank=rank, world=world
        ),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),  # leaves torch's global one untouched
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _span(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return count


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say where a data set lies and how to read it, see `data_spec_from`."""
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data-root", type=Path, help="folder of the data set (default data/<name>)")
    add("--image-root", type=Path, help="folder of the images, where it is an unusual one")
    add("--targets", type=_names, help="scores to learn, the reported one last (MOS,color)")
    add("--threshold", type=float, help="a rating above it counts as positive (default 5)")
    add("--test-list", type=Path, help="ava: file of the test images' ids")
    add("--train-csv", type=Path, help="csv: table of training images")
    add("--test-csv", type=Path, help="csv: table of test images")
    add("--image-column", help="csv: column of image file names (default the first)")
    add("--score-columns", type=_names, help="csv: columns of scores, the reported one last")
    add("--score-range", type=_span, help="csv: lowest and highest rating possible, e.g. 1,7")


def data_spec_from(args: argparse.Namespace) -> DataSpec:
    """The `DataSpec` of `args.dataset` and the flags of `add_data_arguments`.

    Without --data-root, csv takes the folder of --train-csv, any other set data/<name>; with it,
    tables that are not found as given are looked for in it.
    """
    root = args.data_root
    if root is None:
        from_csv = args.dataset == "csv" and args.train_csv
        root = args.train_csv.parent if from_csv else Path("data") / args.dataset
    return DataSpec(
        name=args.dataset,
        data_root=root,
        targets=args.targets,
        train_csv=args.train_csv,
        test_csv=args.test_csv,
        image_root=args.image_root,
        image_column=args.image_column,
        score_columns=args.score_columns or (),
        score_range=args.score_range,
        test_list=args.test_list,
        threshold=args.threshold,
    )


def _set_and_root(text: str) -> DataSpec:
    """`NAME=ROOT` -> DataSpec; a csv has train.csv and test.csv in ROOT, image names first."""
    name, equals, root = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ROOT")
    tables = {"train_csv": Path("train.csv"), "test_csv": Path("test.csv")} if name == "csv" else {}
    return DataSpec(name, Path(root), **tables)


def parse_arguments() -> argparse.Namespace:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description="Look after data sets.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    sample = commands.add_parser("sample", help="generate the built-in data set anew")
    sample.add_argument("--data-root", type=Path, default=Path("data/sample"), help="its folder")
    check = commands.add_parser("verify", help="check every file and label; exit code 1: problems")
    check.add_argument("dataset", choices=DATASETS)
    add_data_arguments(check)
    ready = commands.add_parser("prepare", help="decode and resize every image once, for training")
    ready.add_argument("dataset", choices=DATASETS)
    add_data_arguments(ready)
    preparation.add_arguments(ready)
    leaks = commands.add_parser("leakage", help="test images of one set in another's train split")
    leaks.add_argument("sets", nargs=2, type=_set_and_root, metavar="NAME=ROOT")
    stats = commands.add_parser("stats", help="draw labels, color types and what colors tell")
    stats.add_argument("dataset", choices=DATASETS)
    stats.add_argument("--out", type=Path, help="folder of the files (default runs/stats-DATASET)")
    add_data_arguments(stats)
    for command in (check, leaks, ready, stats):
        command.add_argument("--workers", type=_count, help="threads (default: one per core)")
    return parser.parse_args()


def main() -> int:
    """Run the command; exit code 0: all well, 1: `verify` or `leakage` found something, 2: bad
    input."""
    args = parse_arguments()
    if args.command == "sample":
        start = perf_counter()
        sample_data.ensure_sample(args.data_root, again=True)
        splits = load_splits(DataSpec("sample", args.data_root))
        sizes = ", ".join(f"{len(labels)} {name}" for name, labels in splits.items())
        print(f"{args.data_root}: {sizes} images in {perf_counter() - start:.1f} s")
        return 0
    if args.command == "verify":
        report = verify.verify(data_spec_from(args), args.workers)
        print(report)
        return 0 if report.ok else 1
    if args.command == "prepare":
        return preparation.command(args, data_spec_from(args))
    if args.command == "stats":
        folder = args.out or Path("runs") / f"stats-{args.dataset}"
        dataset_stats.show(data_spec_from(args), folder, args.workers)
        return 0
    found = verify.leakage(*args.sets, args.workers)
    print(*found, sep="\n")
    return 1 if any(leaks.leaked for leaks in found) else 0


if __name__ == "__main__":
    run_cli(main)
