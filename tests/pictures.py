"""Image files for the data tests, made without the project's own code."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int = 0, width: int = 48, height: int = 36) -> Image.Image:
    """A smooth RGB picture that JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg_bytes(seed: int = 0, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo(seed).save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


def write_jpegs(root: Path, names: list[str]) -> None:
    """Tiny valid JPEGs, each with other bytes: the number goes into a comment segment."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 120, 40)).save(buffer, "jpeg")
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        comment = b"\xff\xfe" + struct.pack(">HI", 6, number)
        (root / name).write_bytes(start + comment + rest)


def png_bytes(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG file of raw scan lines (each with its filter byte), of kinds Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data
