"""The photographs that a command line names, one at a time: a million never lie in memory.

An argument is a file, a folder (searched with all folders in it), a pattern with `*`, `?` or `[`
(`**`: any folders), an http(s) address, or `-`: such arguments, one a line, from standard input.
Folders come sorted by name, files before the folders among them; hidden files and folders and files
that are no images by their suffix are left out. What cannot be listed comes as a `Source` with a
`problem`, so that it gets its row among the results.
"""

from __future__ import annotations

import glob
import io
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests

from images import ImageError

DECODED = (
    "jpg jpeg jpe jfif mpo png apng webp avif avifs heic heif hif tif tiff bmp dib gif jp2 j2k jpx "
    "ppm pgm pbm pnm tga ico"
)
DRAWINGS, RAW = "svg svgz", "cr2 cr3 nef arw dng orf rw2 raf pef srw"  # found, and refused by name
SUFFIXES = {f".{suffix}" for suffix in f"{DECODED} {DRAWINGS} {RAW}".split()}
MAX_DOWNLOAD = 64 * 2**20  # bytes
AGENT = {"User-Agent": "color-aesthetics-predict/1.0"}


@dataclass(frozen=True)
class Source:
    """Path or address of one photograph, as it is named in the results."""

    path: str
    problem: str = ""  # why there is nothing to open

    @property
    def is_url(self) -> bool:
        """Whether it has to be downloaded."""
        return self.path.lower().startswith(("http://", "https://"))


def iter_sources(arguments: Iterable[str]) -> Iterator[Source]:
    """The photographs that `arguments` name, in order; see the top of the file."""
    for argument in arguments:
        if argument == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from iter_sources(line for line in lines if line not in ("", "-"))
        elif Source(argument).is_url or Path(argument).is_file():
            yield Source(argument)
        elif Path(argument).is_dir():
            yield from _or_problem(_walk(argument), argument, "the folder holds no photographs")
        elif glob.has_magic(argument):
            matches = _sorted(glob.iglob(argument, recursive=True))  # noqa: PTH207  any pattern
            photos = (Source(path) for path in matches if Path(path).is_file())
            yield from _or_problem(photos, argument, "no file matches the pattern")
        else:
            yield Source(argument)  # opening it tells what is wrong with it


def _or_problem(sources: Iterable[Source], argument: str, problem: str) -> Iterator[Source]:
    """`sources`; where there are none, `argument` with its `problem`."""
    source = None
    for source in sources:
        yield source
    if source is None:
        yield Source(argument, f"{argument}: {problem}")


def _walk(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Source]:
    """Photographs in `folder` and below; links to folders are followed, but not round in circles.

    above: device and inode of the folders that this one is in.
    """
    try:
        status = Path(folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            # "0" and "1" sort the files before the folders.
            names = _sorted(
                ("1" if entry.is_dir() else "0") + entry.name
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        yield Source(folder, f"{folder}: the folder cannot be listed ({error.strerror})")
        return
    for name in names:
        path = os.path.join(folder, name[1:])  # noqa: PTH118  keeps a leading ./ as typed
        if name[0] == "1":
            yield from _walk(path, above | {identity})
        elif Path(path).suffix.lower() in SUFFIXES:
            yield Source(path)


def _sorted(names: Iterable[str]) -> Iterator[str]:
    """`sorted(names)` in bounded memory: SQLite keeps a large table in a temporary file."""
    database = sqlite3.connect("", check_same_thread=False)
    with database:
        database.execute("CREATE TABLE names (name BLOB)")
        encoded = ((os.fsencode(name),) for name in names)
        database.executemany("INSERT INTO names VALUES (?)", encoded)
    return _drain(database)


def _drain(database: sqlite3.Connection) -> Iterator[str]:
    with closing(database):
        for (name,) in database.execute("SELECT name FROM names ORDER BY name"):
            yield os.fsdecode(name)


def open_source(source: Source, timeout: float) -> BinaryIO | None:
    """The downloaded bytes of an address; None for a file, which is read where it is.

    timeout: seconds for the whole download. Raises `ImageError`.
    """
    if source.problem:
        raise ImageError(source.problem)
    suffix = Path(source.path).suffix.lower().lstrip(".")
    if suffix in (*DRAWINGS.split(), *RAW.split()):
        kind = "a vector drawing" if suffix in DRAWINGS else "a camera's raw file"
        raise ImageError(
            f"{source.path}: {suffix.upper()} ({kind}) is not supported: export it as PNG or JPEG"
        )
    if not source.is_url:
        return None
    try:
        return io.BytesIO(_download(source.path, timeout))
    except requests.Timeout:
        raise ImageError(f"{source.path}: no answer within {timeout:g} s") from None
    except requests.RequestException as error:
        raise ImageError(f"{source.path}: the download failed ({error})") from None


def _download(url: str, timeout: float) -> bytes:
    """The body of an http(s) answer. Raises `requests.RequestException` and `ImageError`."""
    end = time.monotonic() + timeout
    with requests.get(url, stream=True, timeout=timeout, headers=AGENT) as answer:
        answer.raise_for_status()
        body = bytearray()
        # read1 returns what has come; a server that trickles cannot stretch the time.
        while chunk := answer.raw.read1(2**16, decode_content=True):
            body += chunk
            if len(body) > MAX_DOWNLOAD:
                raise ImageError(f"{url}: more than {MAX_DOWNLOAD >> 20} MB")
            if time.monotonic() > end:
                raise requests.Timeout
    if not body:
        raise ImageError(f"{url}: the answer is empty")
    return bytes(body)
