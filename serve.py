"""A page in the browser: drop photographs, see scores and explanations, compare two of them."""

from __future__ import annotations

import ipaddress
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pillow_heif
from PIL import Image

import images
from color_change import CHANGES
from errors import UserError
from explain import draw, headline, render, short_name
from explanation import explain_image
from models import ColorAesthetics
from photo_sources import Source
from scoring import Row, score_column, score_photos
from sweep import compute_sweep
from sweep import draw as draw_sweep

if TYPE_CHECKING:
    import gradio

MAX_BYTES = 32 * 2**20  # of one uploaded file
MAX_PIXELS = 50_000_000  # of one photograph
MAX_PHOTOS = 50  # dropped at once
KEPT = 3600  # seconds that uploads and figures stay on disk
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
CSS = ".figure img { padding-top: 2.4rem }"  # below the buttons
SIDES = ("left", "right")


def serve(model: ColorAesthetics, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Show the page at http://host:port until Ctrl-C. Raises `UserError` where that is taken.

    Only this machine reaches the default host. Uploads stay in a temporary folder for an hour, and
    no longer than the page.
    """
    with tempfile.TemporaryDirectory(prefix="color-aesthetics-") as folder:
        page = launch(model, host, port, Path(folder))
        print(f"open {page.local_url} in a browser; Ctrl-C ends it")
        if not _is_loopback(host):
            print("note: other machines can reach this page, and it asks for no password")
        page.block_thread()


def launch(
    model: ColorAesthetics, host: str, port: int, folder: Path, max_bytes: int = MAX_BYTES
) -> gradio.Blocks:
    """Start the page and return at once; uploads go to `folder`. Raises `UserError`."""
    # Before the import, which reads them: nothing is reported to anyone.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder),
    }
    import gradio

    page = build_page(Scorer(model))
    try:
        page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            css=CSS,
            max_file_size=max_bytes,
            theme=gradio.themes.Default(**FONTS),  # the default's own fonts come from the network
        )
    except OSError as error:
        raise UserError(f"no page at {host}, port {port}: {error}; try another --port") from error
    return page


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Scorer:
    """What the page asks of the network, one request at a time."""

    def __init__(self, model: ColorAesthetics) -> None:
        self.model = model
        self.names = tuple(reversed(model.label_scale.names))  # the reported score first
        self.lock = threading.Lock()

    def score(self, paths: list[str]) -> list[Row]:
        """Rows of uploaded files, as `scoring.columns` says; too large ones get an error."""
        sources = [Source(path, _too_large(path)) for path in paths]
        with self.lock:
            batches = score_photos(self.model, sources, batch_size=8, workers=2, timeout=1)
            return [row for batch in batches for row in batch]

    def explain(self, row: Row) -> Image.Image:
        """The figure of a scored photograph. Raises `UserError` where that is gone."""
        image = self._open(row)
        with self.lock:
            return render(draw(explain_image(self.model, image), headline(row, self.names[::-1])))

    def sweep(self, row: Row, kind: str) -> Image.Image:
        """The strip and the curve of a scored photograph. Raises `UserError` where that is gone."""
        image = self._open(row)
        with self.lock:
            sweep = compute_sweep(self.model, image, kind)
            return render(draw_sweep(sweep, short_name(row["path"])))

    def _open(self, row: Row) -> Image.Image:
        try:
            return images.open_rgb(Path(row["path"]))
        except images.ImageError:
            name = Path(row["path"]).name
            raise UserError(f"{name} is no longer here: drop it again") from None

    def table(self, rows: list[Row]) -> list[list[Any]]:
        """Cells of the table: a line a photograph."""
        return [
            [
                Path(row["path"]).name,
                *("" if row["error"] else f"{row[score_column(n)]:.2f}" for n in self.names),
                "" if row["percentile"] is None else f"{row['percentile']:.0f}",
                "" if row["width"] is None else f"{row['width']} × {row['height']}",
                row["error"].replace(row["path"], Path(row["path"]).name) or row["note"],
            ]
            for row in rows
        ]

    def words(self, row: Row) -> str:
        """The scores of a photograph, as Markdown."""
        lines = [f"# {row[score_column(self.names[0])]:.2f} {self.names[0]}"]
        if row["percentile"] is not None:
            lines.append(f"higher than {row['percentile']:.0f} % of the training photographs")
        lines += [f"{name} {row[score_column(name)]:.2f}" for name in self.names[1:]]
        return "\n\n".join(lines)


def _too_large(path: str) -> str:
    """What is wrong with the size of an image; empty for one that is fine or no image at all."""
    pillow_heif.register_heif_opener()
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
    except Exception:  # Pillow raises nearly anything on a corrupt file; decoding says it in words
        return ""
    if pixels <= MAX_PIXELS:
        return ""
    limit = MAX_PIXELS / 1e6
    return f"{pixels / 1e6:.0f} million pixels; this page takes up to {limit:.0f} million"


def build_page(scorer: Scorer) -> gradio.Blocks:
    """The page, not yet served."""
    import gradio as gr

    def in_words(function: Callable[..., Image.Image], *arguments: Any) -> Image.Image:
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(str(error)) from error

    def score_files(paths: list[str] | None) -> list[Any]:
        paths = paths or []
        if len(paths) > MAX_PHOTOS:
            raise gr.Error(f"{len(paths)} photographs: drop up to {MAX_PHOTOS} at once")
        rows = scorer.score(paths)
        good = [row for row in rows if not row["error"]]
        choices = [(f"{i + 1}. {Path(row['path']).name}", i) for i, row in enumerate(good)]
        menus = [
            gr.Dropdown(choices=choices, value=i if i < len(good) else None)
            for i in range(len(SIDES))
        ]
        return [good, scorer.table(rows), *menus]

    def describe(rows: list[Row], index: int | None) -> tuple[str, Image.Image | None]:
        if index is None:
            return "", None
        return scorer.words(rows[index]), in_words(scorer.explain, rows[index])

    def sweep(rows: list[Row], index: int | None, kind: str) -> Image.Image | None:
        return None if index is None else in_words(scorer.sweep, rows[index], kind)

    with gr.Blocks(
        title="Color aesthetics",
        analytics_enabled=False,
        delete_cache=(KEPT, KEPT),
        fill_width=True,
    ) as page:
        gr.Markdown("# Color aesthetics\nDrop photographs, see their scores, compare two of them.")
        limit = f"up to {MAX_BYTES >> 20} MB and {MAX_PIXELS // 10**6} million pixels each"
        files = gr.File(
            label=f"Photographs, {limit}", file_count="multiple", height=140, elem_id="photographs"
        )
        rows = gr.State([])
        headers = ["photograph", *scorer.names, "percentile", "pixels", "remark"]
        table = gr.Dataframe(
            headers=headers, interactive=False, wrap=True, label="Scores", elem_id="scores"
        )
        kind = gr.Radio(list(CHANGES), value="saturation", label="What if its color were changed?")
        menus, updates = [], []
        with gr.Row():
            for side in SIDES:
                with gr.Column():
                    menu = gr.Dropdown([], label=f"On the {side}", elem_id=f"{side}-menu")
                    words = gr.Markdown(elem_id=f"{side}-score")
                    strip, figure = (
                        gr.Image(
                            interactive=False,
                            show_label=False,
                            buttons=["download", "fullscreen"],  # no button that shares it online
                            format="webp",
                            elem_id=f"{side}-{name}",
                            elem_classes="figure",
                        )
                        for name in ("sweep", "figure")
                    )
                menus.append(menu)
                updates.append((describe, [rows, menu], [words, figure]))
                updates.append((sweep, [rows, menu, kind], strip))
                menu.input(*updates[-2])
                gr.on([menu.input, kind.input], *updates[-1])
        scored = files.change(score_files, files, [rows, table, *menus])
        for update in updates:
            scored.then(*update)
    return page
