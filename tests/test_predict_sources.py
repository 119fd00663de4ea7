"""Where photographs come from: folders, patterns, lists, addresses; and that none pile up."""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from scorers import lively_nano, picture

import photo_sources
from photo_sources import Source, iter_sources
from scoring import load_photo, score_photos


def found(*arguments: object) -> list[str]:
    return [source.path for source in iter_sources(map(str, arguments))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "z/c.jpg", "k/d.jpg", "k/deep/e.webp", "k/x.txt", "w[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_patterns_and_names(tree: Path) -> None:
    names = ["a.PNG", "b.jpg", "w[1].jpg", "k/d.jpg", "k/deep/e.webp", "z/c.jpg"]
    assert found(tree) == [f"{tree}/{name}" for name in names]
    assert found(f"{tree}/**/*.jpg") == [
        f"{tree}/{name}" for name in ("b.jpg", "k/d.jpg", "w[1].jpg", "z/c.jpg")
    ]
    assert found(f"{tree}/w[1].jpg", f"{tree}/b.jpg") == [f"{tree}/w[1].jpg", f"{tree}/b.jpg"]


def test_links_to_folders_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "k" / "round").symlink_to(tree)
    (tree / "again").symlink_to(tree / "z")
    assert f"{tree}/again/c.jpg" in found(tree)
    assert len(found(tree)) == 7


def test_a_list_from_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"{tree}/b.jpg\r\n\n{tree}/z\nhttp://h/a.jpg\n-\nlast".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert found("-") == [f"{tree}/b.jpg", f"{tree}/z/c.jpg", "http://h/a.jpg", "last"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_folder_that_cannot_be_read_has_its_row(tree: Path) -> None:
    tree.chmod(0o755)
    for folder in tree.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    (tree / "k").chmod(0)
    os.seteuid(65534)
    try:
        sources = list(iter_sources([str(tree)]))
    finally:
        os.seteuid(0)
        (tree / "k").chmod(0o755)
    problem = next(source for source in sources if source.problem)
    assert problem.path == f"{tree}/k"
    assert "cannot be listed (Permission denied)" in problem.problem
    assert sources[-1].path == f"{tree}/z/c.jpg"


def test_a_stream_without_end_is_scored_as_it_comes() -> None:
    taken = itertools.count()

    def endless() -> Iterator[Source]:
        for number in taken:
            yield Source(f"absent {number}.jpg")

    batches = score_photos(lively_nano(), endless(), batch_size=4, workers=2, timeout=1)
    for number, rows in enumerate(itertools.islice(batches, 50)):
        assert [row["path"] for row in rows] == [f"absent {4 * number + i}.jpg" for i in range(4)]
    assert next(taken) <= 50 * 4 + 2 * 4 + 1
    batches.close()


class Handler(BaseHTTPRequestHandler):
    """Good and bad answers, by path."""

    def do_GET(self) -> None:
        if self.path == "/hang.jpg":
            time.sleep(3)
            return
        buffer = io.BytesIO()
        picture(0).save(buffer, "PNG")
        body = {"/page.jpg": b"<html>no image</html>", "/empty.jpg": b""}.get(
            self.path, buffer.getvalue()
        )
        self.send_response(404 if self.path == "/gone.jpg" else 200)
        self.end_headers()
        if self.path == "/trickle.jpg":
            for index in range(30):
                self.wfile.write(body[index : index + 1])
                time.sleep(0.1)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = load_photo(Source(f"{server}/good.jpg?size=1"), 32, timeout=5)
    assert (photo.width, photo.height, photo.error) == (90, 70, "")
    start = time.monotonic()
    for path, message in {
        "hang.jpg": "no answer within 0.7 s",
        "trickle.jpg": "no answer within 0.7 s",
        "gone.jpg": "the download failed (404",
        "page.jpg": "not an image that can be decoded",
        "empty.jpg": "the answer is empty",
    }.items():
        assert message in load_photo(Source(f"{server}/{path}"), 32, timeout=0.7).error
    assert time.monotonic() - start < 4
    monkeypatch.setattr(photo_sources, "MAX_DOWNLOAD", 100)
    assert "more than 0 MB" in load_photo(Source(f"{server}/good.jpg"), 32, timeout=5).error
    assert "download failed" in load_photo(Source("http://127.0.0.1:1/a.jpg"), 32, timeout=1).error
