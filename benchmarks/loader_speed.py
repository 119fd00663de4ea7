"""Reading training images: from prepared pixels, and by decoding the originals in every epoch.

    python benchmarks/loader_speed.py
    python benchmarks/loader_speed.py --device cuda --batch 256 --workers 4

The photographs are made up (gradients and noise, JPEG quality 90) and lie in a temporary folder, so
files are read from memory, not from a disk. All of them become 256 x 256 pixels of which training
cuts 224 x 224. Epochs go through the loader of training, set up as there: worker processes for
originals, none for prepared pixels. The loader alone makes 8-bit batches; "and on DEVICE" adds
flip, crop and normalisation there. Prints a table, ratios, and the memory of ten epochs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import (
    Result,
    Row,
    add_arguments,
    format_table,
    process_memory,
    seconds_in_turn,
    synchronize,
)
from dataset import ColorDataset, make_loader
from errors import run_cli
from labels import DataSpec, Labels, load_splits
from preparation import prepare
from prepared import PreparedImages, Transform

SIDE, SIZE = 256, 224
TRANSFORM, DRAFT = Transform(SIDE), Transform(SIDE, draft=True)
TINY = "2,000 images"
PHOTOGRAPHS = {  # name: width, height, how many
    TINY: (64, 48, 2000),
    "1 megapixel": (1200, 900, 64),
    "12 megapixels": (4000, 3000, 16),
}
READ = 4096  # prepared images a repeat: one epoch of so few is over too soon to be timed
NETWORK = SimpleNamespace(config=SimpleNamespace(name="delegate_base"))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="processes that read (default 2)")
    parser.add_argument("--device", default="cpu", help="where batches are augmented")
    parser.add_argument("--epochs", type=int, default=10, help="over which memory is watched")
    add_arguments(parser)
    return parser.parse_args()


def write_photographs(folder: Path, width: int, height: int, count: int) -> Labels:
    """`count` JPEGs with labels that mean nothing."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    rows = ["file,score"]
    for number in range(count):
        tilt, shift = rng.normal(size=(2, 3))
        colors = 128 + 90 * np.sin(3 * (x[..., None] * tilt + y[..., None] * shift))
        noise = rng.normal(0, 8, size=(height, width, 1))
        pixels = (colors + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        rows.append(f"{number}.jpg,{number % 10}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    spec = DataSpec(
        "csv",
        folder,
        train_csv=folder / "train.csv",
        score_columns=("score",),
        score_range=(0, 10),
    )
    return load_splits(spec)["train"]


def read_prepared(labels: Labels) -> PreparedImages:
    """The prepared images of a set, which are made first."""
    root = labels.source.parent
    prepare({"train": labels}, {"train": {TRANSFORM}}, folder=root / "prepared", root=root)
    return PreparedImages(root / "prepared", TRANSFORM, labels.paths, root)


def loader_of(
    labels: Labels, prepared: PreparedImages | None, args: argparse.Namespace, workers: int = 0
) -> DataLoader:
    """The loader of training, without its memory for small sets."""
    data = ColorDataset(
        labels,
        image_size=SIZE,
        transform=TRANSFORM,
        train=True,
        prepared=prepared,
        cache=False,
    )
    return make_loader(
        data, batch_size=args.batch, shuffle=True, seed=0, workers=workers, device=args.device
    )


def an_epoch(loader: DataLoader, device: str | None = None) -> Callable[[], None]:
    """A function that reads every batch, and augments it on a device."""

    def epoch() -> None:
        for images, _, _ in loader:
            if device is not None:
                images.to(NETWORK, device)

    return epoch


def compare(name: str, labels: Labels, args: argparse.Namespace, result: Result) -> None:
    """Images a second from prepared pixels and from originals; and of decoding, with --draft."""
    originals = loader_of(labels, None, args, args.workers)
    prepared = loader_of(labels, read_prepared(labels), args)
    read, epochs = an_epoch(prepared), READ // len(labels)
    ways = {
        "originals": an_epoch(originals),
        "prepared": lambda: [read() for _ in range(epochs)],
        "decoding alone": lambda: [TRANSFORM.load(path) for path in labels.paths],
        "decoding alone, --draft": lambda: [DRAFT.load(path) for path in labels.paths],
    }
    seconds = seconds_in_turn(ways, args.repeats)
    seconds["prepared"] = [value / epochs for value in seconds["prepared"]]
    rows = add_rows(result, name, seconds, len(labels))
    for one, other in (("prepared", "originals"), ("decoding alone, --draft", "decoding alone")):
        result.ratios[f"{name}: {one} / {other}"] = rows[one].median / rows[other].median


def add_rows(
    result: Result, name: str, seconds: Mapping[str, Sequence[float]], count: int
) -> dict[str, Row]:
    """Rows of images a second, where an epoch of `count` images took `seconds`."""
    rows = {
        way: Row.of(f"{name}: {way}", "images/s", [count / value for value in values])
        for way, values in seconds.items()
    }
    result.rows.extend(rows.values())
    return rows


def loader_alone(name: str, labels: Labels, args: argparse.Namespace, result: Result) -> list[str]:
    """Images a second from prepared pixels; returns how much memory the first epoch and all take.

    The originals are tiny: they are not looked at.
    """
    prepared = read_prepared(labels)
    loader = loader_of(labels, prepared, args)
    lines = []
    for epoch in range(1, args.epochs + 1):
        loader.dataset.set_epoch(epoch)
        an_epoch(loader, args.device)()
        if epoch in (1, args.epochs):
            lines.append(f"memory after epoch {epoch}: {memory()}")
    ways = {
        "loader alone": an_epoch(loader),
        f"loader, and on {args.device}": an_epoch(loader, args.device),
        f"by {args.workers} workers": an_epoch(loader_of(labels, prepared, args, args.workers)),
    }
    seconds = seconds_in_turn(ways, args.repeats, device=args.device)
    add_rows(result, name, seconds, len(labels))
    return lines


def memory() -> str:
    """Resident memory of this process: its own, and pages of files that it has mapped."""
    own, mapped = (1024 * gib for gib in process_memory("RssAnon", "RssFile"))
    return f"{own:,.0f} MiB of its own, {mapped:,.0f} MiB of mapped files"


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    result = Result("loader_speed", torch.device(args.device).type)
    print(f"batch {args.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, height, count) in PHOTOGRAPHS.items():
            labels = write_photographs(Path(folder, name), width, height, count)
            if name == TINY:
                lines = loader_alone(name, labels, args, result)
            else:
                compare(name, labels, args, result)
    synchronize(args.device)
    print(format_table(result), *lines, f"{time.perf_counter() - started:.0f} s in all", sep="\n")
    result.save(args.json)


if __name__ == "__main__":
    run_cli(main)
