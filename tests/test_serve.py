"""The page in a real browser: what it shows, what it refuses, and whom it talks to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image
from viewing import tiny_model

import serve
from errors import UserError

MAX_BYTES = 300_000
SECONDS = 30_000  # milliseconds that a page may take on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("uploads")
    page = serve.launch(tiny_model(), "127.0.0.1", free_port(), folder, max_bytes=MAX_BYTES)
    yield page.local_url
    page.close()


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The page, opened; fails a test in which the browser asked any other machine for anything."""
    context = browser.new_context(viewport={"width": 1400, "height": 1500})
    context.set_default_timeout(SECONDS)
    hosts = set()
    context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    context.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname))
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("input[type=file]", state="attached")
    yield page
    page.wait_for_timeout(500)  # for requests yet to come
    context.close()
    assert hosts - {None} == {"127.0.0.1"}  # None: data and blob addresses


def loaded(page: Any, selector: str) -> int:
    """Width in pixels of a picture that the page shows, once it is there."""
    page.wait_for_function(
        "s => { const i = document.querySelector(s); return i && i.complete && i.naturalWidth }",
        arg=f"{selector} img",
    )
    return page.locator(f"{selector} img").evaluate("node => node.naturalWidth")


def score_of(page: Any, side: str) -> tuple[str, str]:
    """The number and the name that the page shows large."""
    text = page.locator(f"#{side}-score h1").text_content()
    number, name = text.split()
    return number, name


def test_dropped_photographs_get_the_networks_scores(
    page: Any, shared: Path, tmp_path: Path
) -> None:
    """A drop of two real photographs and a broken one; then another choice, then another kind."""
    first, second = sorted((shared / "data/oasis/images").glob("*.jpg"))[40:42]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(first.read_bytes()[:3000])
    data = page.evaluate_handle("() => new DataTransfer()")
    for path in (first, second, broken):
        page.evaluate(
            """([data, name, bytes]) =>
               data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}))""",
            [data, path.name, list(path.read_bytes())],
        )
    zone = page.locator("#photographs button").first
    for event in ("dragenter", "dragover", "drop"):
        zone.dispatch_event(event, {"dataTransfer": data})

    assert min(loaded(page, f"#{side}-figure") for side in serve.SIDES) > 800
    assert min(loaded(page, f"#{side}-sweep") for side in serve.SIDES) > 800
    model = tiny_model()
    scores = {path: model.score(path) for path in (first, second)}
    for side, path in zip(serve.SIDES, (first, second), strict=True):
        assert score_of(page, side) == (f"{scores[path]['color']:.2f}", "color")
        text = page.locator(f"#{side}-score").inner_text()
        percentile = model.label_scale.percentile("color", scores[path]["color"])
        assert f"higher than {percentile:.0f} %" in text
        assert f"MOS {scores[path]['MOS']:.2f}" in text
    table = page.locator("#scores").inner_text()
    assert f"{scores[second]['color']:.2f}" in table
    assert "not an image that can be decoded" in table
    assert "/uploads" not in table, "where the file lies is nobody's business"
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    sweep = page.locator("#left-sweep img").get_attribute("src")
    page.get_by_label("hue").check()
    page.wait_for_function(
        "s => document.querySelector('#left-sweep img')?.src.indexOf(s) < 0", arg=sweep
    )
    page.locator("#left-menu input").click()
    page.get_by_role("option", name=second.name).click()
    page.wait_for_function(
        "n => document.querySelector('#left-score h1')?.textContent.includes(n)",
        arg=f"{scores[second]['color']:.2f}",
    )


def test_too_large_is_said_in_words(page: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    assert (tmp_path / "heavy.png").stat().st_size > MAX_BYTES
    page.set_input_files("input[type=file]", tmp_path / "heavy.png")
    page.get_by_text("maximum allowed size").wait_for()


def test_too_large_is_refused_without_a_browser_too(address: str) -> None:
    files = {"files": ("heavy.png", bytes(MAX_BYTES + 1))}
    answer = requests.post(f"{address}gradio_api/upload", files=files, timeout=10)
    assert answer.status_code == 413


def test_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_PIXELS", 1_000_000)
    Image.new("L", (2000, 1000)).save(tmp_path / "wide.png")
    Image.new("L", (1000, 1000)).save(tmp_path / "fits.png")
    names = ("wide.png", "fits.png", "absent.png")
    rows = serve.Scorer(tiny_model()).score([str(tmp_path / name) for name in names])
    assert rows[0]["error"] == "2 million pixels; this page takes up to 1 million"
    assert rows[1]["error"] == ""
    assert rows[2]["error"] == "there is no such file"
    assert rows[1]["color"] == pytest.approx(
        tiny_model().score(tmp_path / "fits.png")["color"], abs=1e-4
    )


def test_photograph_that_has_been_cleared_away(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "old.png")
    scorer = serve.Scorer(tiny_model())
    rows = scorer.score([str(tmp_path / "old.png")])
    (tmp_path / "old.png").unlink()
    with pytest.raises(UserError, match=r"^old\.png is no longer here: drop it again$"):
        scorer.explain(rows[0])


def test_only_this_machine_reaches_it(address: str) -> None:
    port = urlsplit(address).port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError):  # noqa: PT011  another loopback address: bound to 127.0.0.1 alone
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert serve.serve.__defaults__[0] == "127.0.0.1"


def test_taken_port_is_a_users_error(address: str, tmp_path: Path) -> None:
    port = urlsplit(address).port
    with pytest.raises(UserError, match=f"port {port}"):
        serve.launch(tiny_model(), "127.0.0.1", port, tmp_path)


def test_requests_of_two_people_do_not_mix() -> None:
    """Explaining turns gradients on, scoring turns them off: one at a time, whoever asks."""
    scorer = serve.Scorer(tiny_model())
    with scorer.lock:
        thread = threading.Thread(target=scorer.score, args=([],))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()
