"""Opening any image a user may have as 8-bit RGB, and a fingerprint of its file.

What becomes of an image that is not plain 8-bit RGB:

| kind | becomes |
|---|---|
| grayscale, 1-bit, palette, CMYK (also Adobe's inverted JPEGs), YCbCr, LAB | Pillow's conversion |
| transparent pixels (alpha channel, palette or `tRNS` transparency) | composited over white |
| 16-bit and 32-bit integers, floats | scaled to 0..255 by their white level, see `_deep_to_gray` |
| EXIF orientation | applied, so that width and height are those a viewer shows |
| several frames (GIF, TIFF, MPO) | the first |

Embedded color profiles are ignored, as in the released code. Plain RGB JPEGs keep exactly the
pixels Pillow decodes. A truncated file is an error, never half a picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from errors import UserError

CHUNK = 1 << 20  # bytes read at once when hashing

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageError(UserError):
    """An image file that cannot be used: the message names the file and the reason."""


def open_rgb(path: Path, least_side: int | None = None) -> Image.Image:
    """Decode `path` to an 8-bit RGB image, as the table above says; `least_side`: see `decode`.

    Raises `ImageError`: missing, empty, not an image, truncated or broken, or more pixels than
    Pillow's limit for decompression bombs (2 x `Image.MAX_IMAGE_PIXELS`, 179 million).
    """
    return decode(path, least_side=least_side)[0]


def decode(
    path: Path | str, file: BinaryIO | None = None, *, least_side: int | None = None
) -> tuple[Image.Image, int]:
    """`open_rgb`'s image, and how many frames there are of which it is the first.

    file: where the bytes are, if not at `path`, which then only names them in messages. The further
    frames of a camera's MPO (previews, gain maps) do not count.
    least_side: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, whichever is the smallest that
    leaves both sides at least so many pixels. libjpeg drops the high frequencies before it inverts
    the cosine transform, which is faster than decoding and then resizing, and not quite the same.
    """
    reads_heif = _register_heif()
    try:
        with Image.open(path if file is None else file) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # does nothing to other formats
            return to_rgb(image), frames
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(
            f"{path}: more than {limit:.0f} million pixels; make it smaller first ({error})"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a corrupt file
        empty = file is None and _is_empty(Path(path))
        reason = "the file is empty" if empty else str(error) or type(error).__name__
        if not reads_heif and Path(path).suffix.lower() in (".heic", ".heif", ".hif"):
            reason += "; HEIC takes the package pillow-heif: pip install pillow-heif"
        raise ImageError(f"{path}: not an image that can be decoded ({reason})") from error


@cache
def _register_heif() -> bool:
    """Teach Pillow HEIC, for which it has no decoder of its own. False where the package is not
    installed: all other formats do without."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB, turned the right way up, as the table above says."""
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _deep_to_gray(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _deep_to_gray(image: Image.Image) -> Image.Image:
    """More than 8 bits a pixel -> 8-bit gray: value / white level x 255, rounded.

    The file does not tell the white level. It is taken as the lowest usual one that no pixel
    exceeds: 65535 for integers; 1, 255 or 65535 for floats; beyond them the brightest pixel.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite numbers")
    levels = (1, 255, 65535) if image.mode == "F" else (65535,)
    white = next((level for level in levels if values.max() <= level), values.max())
    return Image.fromarray(np.rint(values.clip(0) / white * 255).astype(np.uint8))


def content_hash(path: Path) -> str:
    """BLAKE2b of the file's bytes, 32 hexadecimal digits: equal for byte-identical files only."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def decode_error(path: Path) -> str | None:
    """Why `path` cannot be used as an image; None when it decodes."""
    try:
        open_rgb(path)
    except ImageError as error:
        return str(error)
    return None


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None, title: str
) -> list[Result]:
    """`[function(item) for item in items]` in threads, with a progress bar on a terminal.

    Threads, not processes: Pillow decodes and hashlib hashes without holding Python's lock.
    workers: number of threads; None: one per CPU core.
    """
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(function, items)
        return list(tqdm(results, title, len(items), unit="image", disable=None, leave=False))
