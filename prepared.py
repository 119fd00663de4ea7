"""Images decoded and resized once: 8-bit pixels on disk, read through a memory map.

`python dataset.py prepare NAME` makes them (`preparation.py`), training reads them. A folder, by
default `prepared` in the data root, holds one folder for each transform (`256-bilinear-stretch`,
`224-bilinear-stretch-draft`, ...), and that one up to 256 shards, `00.safetensors` to
`ff.safetensors`:

    pixels                  N x 3 x S x S uint8
    size, mtime_ns, crc32   N int64: of the image's file when it was decoded; a checksum
    metadata                names: JSON list of N paths from the data root

An image lies in the shard that its name's CRC-32 says, and a shard's images are sorted by name: the
files depend neither on the order of the labels nor on which process came first. An image counts
while size and modification time of its file are the recorded ones. Its checksum covers name, size,
time and pixels, and is compared when a process first reads it. Shards are replaced whole, so that a
training that has opened one goes on reading the old one.

An image takes 3 S^2 bytes a transform: ICAA17K 3.1 GB for train at 256 and 2.6 GB for all at 224
(a tenth of train is for validation, which the seed chooses), SPAQ 1.7 GB, AVA 38.5 GB.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

import images
from errors import UserError
from preprocessing import resize
from run_folder import replacing

SHARDS = 256
NO_PIXELS = torch.empty(0, dtype=torch.uint8)
DRAFT_REDUCTION = 2  # --draft: JPEGs are decoded with at least so many times the side needed


@dataclass(frozen=True, order=True)
class Transform:
    """How an image becomes 3 x side x side uint8 pixels; equal transforms give equal pixels.

    aspect: see `preprocessing.resize`.
    draft: let libjpeg halve large JPEGs in the frequency domain while both sides stay at least
    twice `side`. With 12 megapixels that is twice as fast; pixels differ by 0.2 to 0.35 of 255 in
    the mean and by 8 at most (0.5 to 1 and 31 where the sides may come down to `side` itself).
    """

    side: int
    aspect: str = "stretch"
    draft: bool = False

    @classmethod
    def of(
        cls, image_size: int, resize_ratio: float, *, train: bool, aspect: str, draft: bool
    ) -> Transform:
        """How images are read for a network's `image_size`: in training, before the random crop."""
        return cls(round(resize_ratio * image_size) if train else image_size, aspect, draft)

    @property
    def folder(self) -> str:
        """Name of the folder with its shards."""
        return f"{self.side}-bilinear-{self.aspect}{'-draft' if self.draft else ''}"

    @property
    def least_side(self) -> int | None:
        """`least_side` of `images.open_rgb`."""
        return DRAFT_REDUCTION * self.side if self.draft else None

    def load(self, path: Path) -> Tensor:
        """Decode and resize: 3 x side x side uint8. Raises `images.ImageError`."""
        return self.apply(images.open_rgb(path, self.least_side))

    def apply(self, image: Image.Image) -> Tensor:
        """Resize an opened image: 3 x side x side uint8."""
        return resize(image, self.side, self.aspect)


class Entry(NamedTuple):
    """An image's name, and its file's size in bytes and modification time."""

    name: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, name: str, path: Path) -> Entry:
        """What is on disk now. Raises `OSError`."""
        state = path.stat()
        return cls(name, state.st_size, state.st_mtime_ns)

    def checksum(self, pixels: Tensor) -> int:
        """CRC-32 of the entry and its pixels."""
        text = f"{self.name}\0{self.size}\0{self.mtime_ns}"
        return zlib.crc32(pixels.numpy(), zlib.crc32(os.fsencode(text)))


class Shard(NamedTuple):
    """A shard's content; `pixels` are read from disk when they are looked at."""

    entries: list[Entry]
    checksums: list[int]
    pixels: Tensor  # N x 3 x S x S uint8

    def is_sound(self, row: int) -> bool:
        """Whether an image is as it was written."""
        return self.entries[row].checksum(self.pixels[row]) == self.checksums[row]

    def holds(self, name: str, row: int) -> bool:
        """Whether the image in `row` is the one called `name`, as it was written."""
        return row < len(self.entries) and self.entries[row].name == name and self.is_sound(row)


class DamagedError(UserError):
    """A shard, or an image in it, that is not as it was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: damaged (its checksum is wrong); `python dataset.py prepare` makes it anew,"
            " --prepared off does without"
        )


def shard_path(folder: Path, transform: Transform, number: int) -> Path:
    """Where shard `number` of a transform lies."""
    return folder / transform.folder / f"{number:02x}.safetensors"


def shard_number(name: str) -> int:
    """The shard that an image lies in, 0 .. 255."""
    return zlib.crc32(os.fsencode(name)) % SHARDS


def image_names(paths: Sequence[Path], root: Path) -> list[str]:
    """Names of images: their paths from the data root, which may move together with them."""
    from_root = cache(lambda folder: PurePath(os.path.relpath(folder, root)))
    return [(from_root(path.parent) / path.name).as_posix() for path in paths]


def write_shard(path: Path, found: Sequence[tuple[Entry, Tensor]]) -> None:
    """Write a shard, whole or not at all; `found` are its images, 3 x S x S uint8 each."""
    found = sorted(found, key=lambda pair: pair[0])
    entries = [entry for entry, _ in found]
    columns = {
        "size": [entry.size for entry in entries],
        "mtime_ns": [entry.mtime_ns for entry in entries],
        "crc32": [entry.checksum(pixels) for entry, pixels in found],
    }
    tensors = {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
    tensors["pixels"] = torch.stack([pixels for _, pixels in found]).numpy()
    names = json.dumps([entry.name for entry in entries])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"names": names})


def read_shard(path: Path) -> Shard | None:
    """Open a shard; None where there is none. Raises `DamagedError` for a file that is none."""
    try:
        with safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["names"])
            columns = [file.get_tensor(key).tolist() for key in ("size", "mtime_ns", "crc32")]
            pixels = file.get_tensor("pixels")  # a view of the file, not a copy
        *states, checksums = columns
        entries = [Entry(*fields) for fields in zip(names, *states, strict=True)]
        if not len(entries) == len(checksums) == len(pixels) or pixels.dtype != torch.uint8:
            raise DamagedError(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(path) from error
    return Shard(entries, checksums, pixels)


class PreparedImages:
    """The prepared pixels of N images, found by path.

    absent: indices of those that are not there, or whose file has changed since. Raises
    `DamagedError` for a shard that cannot be read.
    """

    def __init__(
        self, folder: Path, transform: Transform, paths: Sequence[Path], root: Path
    ) -> None:
        self.folder, self.transform = folder, transform
        self.names = image_names(paths, root)
        self.absent: list[int] = []
        self._numbers = np.array([shard_number(name) for name in self.names], dtype=np.int64)
        self._rows = np.zeros(len(paths), dtype=np.int64)
        self._checked = np.zeros(len(paths), dtype=bool)
        self._opened: dict[int, Shard] = {}
        for number in np.unique(self._numbers).tolist():
            shard = read_shard(shard_path(folder, transform, number)) or Shard([], [], NO_PIXELS)
            row_of = {entry: row for row, entry in enumerate(shard.entries)}
            self._opened[number] = shard
            for i in np.flatnonzero(self._numbers == number).tolist():
                try:
                    self._rows[i] = row_of[Entry.of(self.names[i], paths[i])]
                except (KeyError, OSError):
                    self.absent.append(i)
        self.absent.sort()

    def __getstate__(self) -> dict[str, Any]:
        # A process that is no fork of this one opens the files itself.
        return self.__dict__ | {"_opened": {}, "_checked": np.zeros_like(self._checked)}

    def gather(self, indices: Sequence[int]) -> Tensor:
        """B x 3 x S x S uint8, copied once. Raises `DamagedError`."""
        return torch.stack([self._pixels(index) for index in indices])

    def _pixels(self, index: int) -> Tensor:
        """A view of an image's pixels, whose checksum is compared when they are first read."""
        number, row = int(self._numbers[index]), int(self._rows[index])
        shard = self._opened.get(number)
        if shard is None:
            path = shard_path(self.folder, self.transform, number)
            shard = self._opened[number] = read_shard(path) or Shard([], [], NO_PIXELS)
        if not self._checked[index]:
            if not shard.holds(self.names[index], row):
                raise DamagedError(shard_path(self.folder, self.transform, number))
            self._checked[index] = True
        return shard.pixels[row]
