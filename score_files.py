"""Result files that are whole after every batch: CSV, JSON lines, JSON; Parquet at the end.

| suffix | while it grows | after a kill |
|---|---|---|
| .csv | rows are appended | at most the last line is cut: --resume drops it |
| .jsonl | one JSON object a line is appended | the same |
| .json | one array, an object a line; its `]` moves on with each batch | the same |
| .parquet | a .jsonl part beside it grows, and becomes row groups at the end | --resume reads it |

When the disk is full, what was written before stays whole. The order is that of the input.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from errors import UserError
from scoring import Row

FORMATS = (".csv", ".json", ".jsonl", ".parquet")
CHUNK = 10_000  # rows of a Parquet row group, and of one write when files are merged
# What a file starts with, what stands between two rows, and what it ends with.
LAYOUT = {".csv": (b"", b"", b""), ".jsonl": (b"", b"", b""), ".json": (b"[\n", b",\n", b"\n]\n")}
TEXTS = ("path", "note", "error")


def check_format(path: Path) -> None:
    """Raise `UserError` unless results can be written at `path`."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: the suffix must be one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give a file name in it")


class RowFile:
    """A .csv, .jsonl or .json file that grows by whole batches of rows.

    position: bytes of the rows that are there already (0: start the file anew), and `count` their
    number; what lies behind them is cut off.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], *, position: int = 0, count: int = 0
    ) -> None:
        self.path, self.columns, self.count = path, columns, count
        self.format = path.suffix.lower()
        start, self.between, self.end = LAYOUT[self.format]
        if self.format == ".csv":
            start = _csv_line(columns)
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        self.position = position
        if position == 0:
            os.ftruncate(self.descriptor, 0)
            self._write(start, 0)
        else:
            self._write(b"", 0)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows. Raises `UserError` when they do not fit on the disk; then none was added."""
        encoded = [self._encode(row) for row in rows]
        if encoded:
            lead = self.between if self.count else b""
            self._write(lead + self.between.join(encoded), len(encoded))

    def _encode(self, row: Row) -> bytes:
        values = [row[column] for column in self.columns]
        if self.format == ".csv":
            return _csv_line("" if value is None else value for value in values)
        line = json.dumps(dict(zip(self.columns, values, strict=True)), allow_nan=False)
        return line.encode() + (b"" if self.format == ".json" else b"\n")

    def _write(self, data: bytes, rows: int) -> None:
        """Put `data` and the file's end behind the rows; on failure leave the file as it was."""
        try:
            _write_all(self.descriptor, data + self.end, self.position)
        except OSError as error:
            os.ftruncate(self.descriptor, self.position)
            _write_all(self.descriptor, self.end, self.position)
            raise UserError(
                f"{self.path}: {error.strerror} after {self.count} photographs, whose results are "
                "kept: make room, then go on with --resume"
            ) from None
        self.position += len(data)
        self.count += rows
        os.ftruncate(self.descriptor, self.position + len(self.end))

    def close(self) -> None:
        """Force the rows to disk and close the file."""
        os.fsync(self.descriptor)
        os.close(self.descriptor)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return os.fsencode(text.getvalue())


# ------------------------------------------------------------------------------- reading


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a result file, one at a time. Raises `UserError` for a file with others."""
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, columns)
    else:
        for row, _ in read_positions(path, columns):
            yield row


def read_positions(path: Path, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Rows of a .csv, .jsonl or .json file with the position behind each; a cut last row is left
    out. Raises `UserError` for a file that holds other columns."""
    read = _read_csv if path.suffix.lower() == ".csv" else _read_json
    with path.open("rb") as file:
        yield from read(file, path, tuple(columns))


def _read_csv(file: io.BufferedReader, path: Path, columns: tuple) -> Iterator[tuple[Row, int]]:
    position, whole = 0, True

    def lines() -> Iterator[str]:
        nonlocal position, whole
        for line in file:
            position += len(line)
            whole = line.endswith(b"\n")
            yield os.fsdecode(line)

    reader = csv.reader(lines())
    header = next(reader, [])
    if header and tuple(header) != columns:
        raise _other_columns(path, header, columns)
    for values in reader:
        if whole and len(values) == len(columns):
            yield _typed(dict(zip(columns, values, strict=True))), position
        elif file.peek(1):
            raise UserError(f"{path}, line {reader.line_num}: a row needs {len(columns)} cells")


def _typed(cells: dict[str, str]) -> Row:
    """Texts of a CSV row as the values they were: numbers, and None for empty cells."""
    kinds = {**dict.fromkeys(TEXTS, str), "width": int, "height": int}
    return {
        name: kinds.get(name, float)(text) if text or name in TEXTS else None
        for name, text in cells.items()
    }


def _read_json(file: io.BufferedReader, path: Path, columns: tuple) -> Iterator[tuple[Row, int]]:
    position = 0
    is_array = path.suffix.lower() == ".json"
    for number, line in enumerate(file, start=1):
        text = line.rstrip(b",\n") if is_array else line
        end, position = position + len(text), position + len(line)
        if is_array and text in (b"[", b"]", b""):
            continue
        try:
            row = dict(json.loads(text))
        except (ValueError, TypeError):
            if not file.peek(1):
                return  # a cut last line
            raise UserError(f"{path}, line {number}: not a result of predict.py") from None
        if tuple(row) != columns:
            raise _other_columns(path, list(row), columns)
        if is_array or line.endswith(b"\n"):
            yield row, end


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if tuple(file.schema_arrow.names) != tuple(columns):
                raise _other_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(CHUNK):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is no whole Parquet file ({error})") from None


def _other_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> UserError:
    return UserError(
        f"{path} holds other columns ({', '.join(found)}) than these weights give "
        f"({', '.join(wanted)}): give another --out, or --overwrite"
    )


# ------------------------------------------------------------------------------- whole files


def write_whole(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write all `rows` to a file of any of `FORMATS` that appears whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    rows = iter(rows)
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(temporary, columns, rows)
        else:
            file = RowFile(temporary, columns)
            while chunk := list(islice(rows, CHUNK)):
                file.append(chunk)
            file.close()
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterator[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {**dict.fromkeys(TEXTS, pyarrow.string())}
    kinds |= dict.fromkeys(("width", "height"), pyarrow.int32())
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            for row in chunk:  # Parquet's texts are UTF-8; file names need not be
                row["path"] = row["path"].encode("utf-8", "backslashreplace").decode()
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
