"""Result files: cut anywhere, disks that fill up, parts of several processes."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import UserError
from photo_sources import Source
from score_files import RowFile, read_positions, read_rows, write_whole
from score_output import Processes, ScoreOutput
from scoring import Row

COLUMNS = ("path", "color", "percentile", "width", "height", "note", "error")
NAMES = [
    'a "b", c.jpg',
    "two\nlines.jpg",
    "caf\u00e9.jpg",
    "not utf-8 \udcff.jpg",
    "d.jpg",
    "e.jpg",
]


def row(name: str) -> Row:
    values = (name, 5.25, None, 40, 30, "", "")
    failed = (name, None, None, None, None, "", "broken")
    return dict(zip(COLUMNS, failed if name == "d.jpg" else values, strict=True))


ROWS = [row(name) for name in NAMES]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_a_file_cut_anywhere_is_mended_by_going_on(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s.{suffix}"
    file = RowFile(path, COLUMNS)
    for start in (0, 2, 4):
        file.append(ROWS[start : start + 2])
        if suffix == "json":
            assert len(json.loads(path.read_text())) == start + 2
    file.close()
    whole = path.read_bytes()
    assert list(read_rows(path, COLUMNS)) == ROWS
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        held = list(read_positions(path, COLUMNS)) if length > len(",".join(COLUMNS)) else []
        assert [found for found, _ in held] == ROWS[: len(held)]
        position = held[-1][1] if held else 0
        file = RowFile(path, COLUMNS, position=position, count=len(held))
        file.append(ROWS[len(held) :])
        file.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_whole_files_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s.{suffix}"
    rows = [found for found in ROWS if "utf-8" not in found["path"] or suffix != "parquet"]
    write_whole(path, COLUMNS, (dict(found) for found in rows))
    assert list(read_rows(path, COLUMNS)) == rows
    write_whole(path, COLUMNS, iter(()))
    assert list(read_rows(path, COLUMNS)) == []
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_a_full_disk_leaves_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s.{suffix}"
    file = RowFile(path, COLUMNS)
    file.append(ROWS[:3])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(UserError, match="after 3 photographs, whose results are kept"):
            file.append(ROWS[3:])
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.append(ROWS[3:])
    file.close()
    assert list(read_rows(path, COLUMNS)) == ROWS


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    for name, content, message in [
        ("a.csv", "path,other\n", "holds other columns"),
        ("b.csv", ",".join(COLUMNS) + "\nx,1\nd,,,,,,\n", "line 2: a row needs 7 cells"),
        ("c.jsonl", '{"path": 1}\n', "holds other columns"),
        ("d.json", "text\nmore\n", "line 1: not a result"),
        ("e.parquet", "PAR1", "no whole Parquet file"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message):
            list(read_rows(tmp_path / name, COLUMNS))


def scored(sources: Iterator[Source]) -> Iterator[list[Row]]:
    for source in sources:
        yield [row(source.path)]


def dies_after_two(sources: Iterator[Source]) -> Iterator[list[Row]]:
    yield [row(next(sources).path)]
    yield [row(next(sources).path)]
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parts_of_several_processes(tmp_path: Path, suffix: str) -> None:
    """Two processes, played one after the other; both die once, then one file comes out."""
    path, names = tmp_path / f"s.{suffix}", [f"{n}.jpg" for n in range(9)]
    write_whole(path, COLUMNS, (row(name) for name in names[:2]))
    alone = {"wait": lambda self: None}
    outputs = [
        ScoreOutput(path, COLUMNS, type("Alone", (Processes,), alone)(rank, 2)) for rank in (1, 0)
    ]
    for output in outputs:
        with pytest.raises(KeyboardInterrupt):
            output.fill(map(Source, names), dies_after_two)
    assert len(list(tmp_path.glob("*.part-*"))) == 2
    with pytest.raises(UserError, match="another number of processes"):
        ScoreOutput(path, COLUMNS, Processes(0, 1)).prepare(resume=True, overwrite=False)
    with pytest.raises(UserError, match="exists: --resume"):
        outputs[0].prepare(resume=False, overwrite=False)
    for output in outputs:
        output.prepare(resume=True, overwrite=False)
        output.fill(map(Source, names), scored)
    assert list(read_rows(path, COLUMNS)) == [row(name) for name in names]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
