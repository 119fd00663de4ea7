"""Scores of a stream of photographs: decoding in threads runs beside the network."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from images import ImageError, decode
from models import ColorAesthetics, LabelScale
from photo_sources import Source, open_source
from preprocessing import resize

Row = dict[str, Any]  # one photograph's result: `columns` with their values, None where unknown
FIXED = ("path", "percentile", "width", "height", "note", "error")


@dataclass(frozen=True)
class LoadedPhoto:
    """A photograph as the network takes it, or why there is none."""

    path: str
    pixels: torch.Tensor | None = None  # uint8 3 x S x S
    width: int | None = None  # of the photograph as a viewer shows it
    height: int | None = None
    note: str = ""
    error: str = ""


def load_photo(
    source: Source, size: int, *, timeout: float, aspect: str = "stretch"
) -> LoadedPhoto:
    """Read (or download), decode and `resize` one photograph; never raises for a bad one."""
    try:
        image, frames = decode(source.path, open_source(source, timeout))
    except ImageError as error:
        reason = str(error).removeprefix(f"{source.path}: ")
        return LoadedPhoto(source.path, error=" ".join(reason.split()))
    note = f"first of {frames} frames" if frames > 1 else ""
    pixels = resize(image, size, aspect)
    return LoadedPhoto(source.path, pixels, image.width, image.height, note)


def columns(scale: LabelScale) -> tuple[str, ...]:
    """What a row holds: a score for each target, the reported one last, by its name; its percentile
    among the training labels (`percentile_NAME` for the other targets), size, note, error."""
    others = [f"percentile_{name}" for name in scale.names[:-1]]
    scores = [score_column(name) for name in scale.names]
    return ("path", *scores, "percentile", *others, "width", "height", "note", "error")


def score_column(target: str) -> str:
    """The column of a target's score: its name, unless that is taken."""
    return f"score_{target}" if target in FIXED else target


def score_photos(
    model: ColorAesthetics,
    sources: Iterable[Source],
    *,
    batch_size: int,
    workers: int,
    timeout: float,
    flip_tta: bool = False,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[list[Row]]:
    """The rows of `sources`, in order, a batch at a time; at most three batches are in memory.

    workers: threads that decode. timeout: seconds for a download. flip_tta: mean of the scores of a
    photograph and its mirror image. A score does not depend on the other photographs of its batch,
    see `models.scoring_api.Scoring`.
    """
    scale, size, aspect = model.label_scale, model.config.image_size, model.config.aspect

    def load(source: Source) -> LoadedPhoto:
        return load_photo(source, size, timeout=timeout, aspect=aspect)

    photos = _map_ahead(load, sources, workers, ahead=2 * batch_size)
    while batch := list(islice(photos, batch_size)):
        pixels = [photo.pixels for photo in batch if photo.pixels is not None]
        scores = iter(())
        if pixels:
            views = [torch.stack(pixels)]
            if flip_tta:
                views.append(views[0].flip(3))
            with autocast():
                scored = torch.stack([model.score_pixels(view) for view in views])
            scores = iter(scored.mean(dim=0).tolist())
        yield [_row(photo, scale, None if photo.error else next(scores)) for photo in batch]


def _map_ahead(
    function: Callable[[Source], LoadedPhoto], items: Iterable[Source], workers: int, ahead: int
) -> Iterator[LoadedPhoto]:
    """`map(function, items)` in threads that are never more than `ahead` items before the reader:
    neither the items nor the results of a long stream pile up."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[LoadedPhoto]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _row(photo: LoadedPhoto, scale: LabelScale, scores: list[float] | None) -> Row:
    row: Row = dict.fromkeys(columns(scale))
    row |= {"path": photo.path, "width": photo.width, "height": photo.height}
    row |= {"note": photo.note, "error": photo.error}
    if scores is None:
        return row
    if not all(map(math.isfinite, scores)):
        return row | {"error": "the network's score is not a number: broken weights, or --amp fp16"}
    for name, score in zip(scale.names, scores, strict=True):
        percentile = scale.percentile(name, score)
        suffix = "" if name == scale.names[-1] else f"_{name}"
        row[score_column(name)] = round(score, 4)
        row[f"percentile{suffix}"] = None if percentile is None else round(percentile, 1)
    return row
