"""Scoring into a file: what it holds already, who scores what, and how the parts come together.

One process appends to the output. With `torchrun`, and for Parquet, process r of N writes each N-th
row from the r-th on to a part beside the output; in the end the parts are merged in order. With
`--resume`, the rows that output and parts hold must be those of the first photographs of the input;
scoring goes on behind them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, cycle, islice
from pathlib import Path

import torch.distributed

from errors import UserError
from photo_sources import Source
from score_files import RowFile, read_positions, read_rows, write_whole
from scoring import Row

Score = Callable[[Iterator[Source]], Iterable[list[Row]]]
PART = "{name}.from-{start}.part-{rank}-of-{world}.jsonl"


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_torchrun(cls) -> Processes:
        """What torchrun's environment says; joins the group where there is one."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        # A process that has scored its share waits for the others, for as long as they take.
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
        return cls(torch.distributed.get_rank(), world)

    def wait(self) -> None:
        """Return once all processes have come here."""
        if self.world > 1:
            torch.distributed.barrier()


@dataclass(frozen=True)
class ScoreOutput:
    """The file at `path` with rows of `columns`, and the processes that fill it."""

    path: Path
    columns: Sequence[str]
    processes: Processes = Processes()

    @property
    def in_parts(self) -> bool:
        """Whether rows are gathered beside the output."""
        return self.processes.world > 1 or self.path.suffix.lower() == ".parquet"

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Check what is there before anything is scored; with `overwrite`, remove it.

        Raises `UserError` for results that are neither to be continued nor to be overwritten.
        """
        parts = self._parts()
        if resume:
            world = self.processes.world if self.in_parts else 0
            other = [part for part in parts if not part.name.endswith(f"-of-{world}.jsonl")]
            if other:
                raise UserError(
                    f"{other[0]} is of a scoring with another number of processes: resume with "
                    "torchrun --nproc_per_node as many as after 'of', or --overwrite"
                )
        elif not overwrite and (self.path.exists() or parts):
            raise UserError(
                f"{parts[0] if parts else self.path} exists: --resume continues what it holds, "
                "--overwrite starts anew"
            )
        self.processes.wait()
        if overwrite and self.processes.rank == 0:
            for path in [self.path, *parts]:
                path.unlink(missing_ok=True)
        self.processes.wait()

    def fill(self, sources: Iterator[Source], score: Score) -> None:
        """Score what is not there yet and write it. Raises `UserError` where the rows that are
        there are not those of `sources`, and when the disk is full."""
        if not self.in_parts:
            self._append(self.path, sources, score)
            return
        rank, world = self.processes.rank, self.processes.world
        start = (
            skip_scored(read_rows(self.path, self.columns), sources) if self.path.exists() else 0
        )
        self._append(self._part(start, rank), islice(sources, rank, None, world), score)
        self.processes.wait()
        if rank == 0:
            before = read_rows(self.path, self.columns) if start else ()
            parts = [read_rows(self._part(start, r), self.columns) for r in range(world)]
            write_whole(self.path, self.columns, chain(before, interleave(parts)))
            for part in self._parts():
                part.unlink()
        self.processes.wait()

    def _append(self, path: Path, sources: Iterator[Source], score: Score) -> None:
        count = position = 0
        if path.exists():
            for row, position in read_positions(path, self.columns):  # noqa: B007  the last is kept
                count += skip_scored([row], sources)
        file = RowFile(path, self.columns, position=position, count=count)
        try:
            for rows in score(sources):
                file.append(rows)
        finally:
            file.close()

    def _part(self, start: int, rank: int) -> Path:
        world = self.processes.world
        name = PART.format(name=self.path.name, start=start, rank=rank, world=world)
        return self.path.with_name(name)

    def _parts(self) -> list[Path]:
        """All parts beside the output, also those of an earlier scoring."""
        name = PART.format(name=re.escape(self.path.name), start=r"\d+", rank=r"\d+", world=r"\d+")
        return sorted(p for p in self.path.parent.iterdir() if re.fullmatch(name, p.name))


def skip_scored(rows: Iterable[Row], sources: Iterator[Source]) -> int:
    """Take from `sources` those that `rows` hold; returns their number. Raises `UserError` where
    they are others."""
    count = 0
    for row in rows:
        source = next(sources, None)
        if source is None or source.path != row["path"]:
            found = "ends" if source is None else f"has {source.path}"
            raise UserError(
                f"cannot resume: the output holds {row['path']} where the input {found}: give the "
                "same photographs in the same order, or --overwrite"
            )
        count += 1
    return count


def interleave(parts: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """A row of each part in turn. Raises `UserError` where a part lacks rows."""
    for part in cycle(parts):
        row = next(part, None)
        if row is None:
            break
        yield row
    if any(next(part, None) is not None for part in parts):
        raise UserError("the parts do not fit together: a process saw other photographs")
