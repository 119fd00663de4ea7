"""A report of scored photographs: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

import images
from explain import draw, headline, render
from explanation import explain_image
from models import ColorAesthetics
from photo_sources import Source, open_source
from run_folder import replacing
from scoring import Row, score_column

TEMPLATES = Path(__file__).resolve().parent / "templates"
MAX_CARDS = 2000  # half of them the best, half the worst: about 20 MB
MAX_FIGURES = 60  # likewise: about 12 MB
MAX_ERRORS = 500
THUMBNAIL = (240, 160)  # pixels
BINS = 40
TIMEOUT = 20  # seconds, for photographs that have to be downloaded again


def write_report(path: Path, results: Iterable[Row], model: ColorAesthetics, explain: bool) -> None:
    """Write the report of scored photographs: thumbnails by score, histogram, errors.

    results: rows as `scoring.columns` says; of millions the best and the worst are kept.
    explain: draw the figures that a click opens, for the very best and worst. The file appears
    whole or not at all.
    """
    scale = model.label_scale
    summary = Summary(scale.names[-1], (scale.low, scale.high))
    for row in results:
        summary.add(row)
    shown = summary.shown()
    cards = images.parallel_map(partial(_card, scale.names), shown, 0, "report")
    for i in tqdm(_both_ends(len(shown), MAX_FIGURES * explain), "figures", disable=None):
        cards[i]["figure"] = _figure(shown[i], model)
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    html = environment.get_template("report.html").render(
        target=summary.target,
        network=model.config.name,
        low=scale.low,
        high=scale.high,
        scored=summary.scored,
        mean=summary.total / max(summary.scored, 1),
        counts=summary.counts.tolist(),
        highest=max(int(summary.counts.max()), 1),
        edges=np.linspace(scale.low, scale.high, BINS + 1).tolist(),
        cards=cards,
        figures=sum(bool(card["figure"]) for card in cards),
        failed=summary.failed,
        errors=summary.errors,
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


@dataclass
class Summary:
    """What is kept of any number of rows."""

    target: str
    scale: tuple[float, float]
    scored: int = 0
    failed: int = 0
    total: float = 0.0  # sum of the scores
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=int))
    errors: list[Row] = field(default_factory=list)
    _best: list[tuple[float, int, Row]] = field(default_factory=list)
    _worst: list[tuple[float, int, Row]] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take in one row."""
        if row.get("error"):
            self.failed += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(row)
            return
        score = float(row[score_column(self.target)])
        low, high = self.scale
        self.counts[min(max(int((score - low) / (high - low) * BINS), 0), BINS - 1)] += 1
        self.total += score
        self.scored += 1
        # The number tells equal scores apart, and the earlier of them is the better one.
        for heap, sign in ((self._best, 1), (self._worst, -1)):
            entry = (sign * score, -sign * self.scored, row)
            add = heapq.heappush if len(heap) < MAX_CARDS // 2 else heapq.heappushpop
            add(heap, entry)

    def shown(self) -> list[Row]:
        """The rows of the cards, the best first."""
        kept = {-number: (score, row) for score, number, row in self._best}
        kept |= {number: (-score, row) for score, number, row in self._worst}
        order = sorted(kept, key=lambda number: (-kept[number][0], number))
        return [kept[number][1] for number in order]


def _both_ends(length: int, limit: int) -> list[int]:
    """The first and the last of `length` indices, `limit` in all."""
    indices, half = range(length), limit // 2
    return sorted({*indices[:half], *indices[max(length - half, 0) :]})


def _open(row: Row) -> Image.Image | None:
    """The photograph of a row; None where it can no longer be read."""
    source = Source(str(row["path"]))
    try:
        return images.decode(source.path, open_source(source, TIMEOUT))[0]
    except images.ImageError:
        return None


def _card(names: Sequence[str], row: Row) -> dict[str, Any]:
    """What the template needs of one row; `names`: of the scores, the reported one last."""
    others = [f"{name} {row[score_column(name)]:.2f}" for name in reversed(names[:-1])]
    card = {
        "path": str(row["path"]),
        "name": Path(str(row["path"])).name,
        "score": float(row[score_column(names[-1])]),
        "percentile": row.get("percentile"),
        "note": " · ".join([*others, f"{row['width']} × {row['height']}"]),
        "thumbnail": None,
        "figure": None,
    }
    image = _open(row)
    if image is None:
        return card
    image.thumbnail(THUMBNAIL)
    size = {"width": image.width, "height": image.height}
    return card | {"thumbnail": data_uri(image), **size}


def _figure(row: Row, model: ColorAesthetics) -> str | None:
    """The explanation as a picture; None where the photograph can no longer be read."""
    image = _open(row)
    if image is None:
        return None
    figure = draw(explain_image(model, image), headline(row, model.label_scale.names))
    return data_uri(render(figure))


def data_uri(image: Image.Image) -> str:
    """A picture as the address of itself."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
