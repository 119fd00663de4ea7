"""The report: what it holds, and that a browser shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewing import row, tiny_model

import report
from report import Summary, write_report
from scoring import Row


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Eight photographs of different scores, and one that could not be read."""
    model, results = tiny_model(), []
    rng = np.random.default_rng(0)
    for i in range(8):
        size = (120, 60) if i % 2 else (60, 120)
        path = tmp_path / f"photo <b>{i} & 'co'.png"
        image = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize(size, 2)
        image.save(path)
        results.append(row(model, str(path), image))
    bad = dict.fromkeys(results[0]) | {"path": "bad <i>.jpg", "error": "not an image <script>"}
    return [*results, bad]


def test_browser_shows_cards_and_figures(
    rows: list[Row], tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_FIGURES", 4)
    path = tmp_path / "report.html"
    write_report(path, rows, tiny_model(), explain=True)
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url[:60]))
    page.on("requestfailed", lambda request: problems.append(request.url[:60]))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())

    cards = page.locator(".card")
    assert cards.count() == 8
    widths = "nodes => nodes.map(node => node.naturalWidth)"
    page.wait_for_function("[...document.images].every(i => !i.src || i.complete)")
    assert min(page.locator(".card img").evaluate_all(widths)) > 0
    shown = [float(text) for text in page.locator(".card b").all_text_contents()]
    scores = sorted((row["color"] for row in rows[:-1]), reverse=True)
    assert shown == pytest.approx(scores, abs=0.006)
    names = page.locator(".card .name").all_text_contents()
    assert all(re.fullmatch(r"photo <b>\d & 'co'\.png", name) for name in names)
    assert "not an image <script>" in page.locator("#errors").inner_text()
    bars = page.locator("svg rect title").all_text_contents()
    assert sum(int(bar.rsplit(": ")[1]) for bar in bars) == 8

    # The best two and the worst two have figures; the others open as they are.
    sizes = []
    for i in range(8):
        cards.nth(i).click()
        figure = page.locator("dialog img")
        page.wait_for_function("document.querySelector('dialog img').complete")
        assert figure.is_visible()
        sizes.append(figure.evaluate("node => node.naturalWidth"))
        page.keyboard.press("Escape")
        assert not figure.is_visible()
    assert [size > 800 for size in sizes] == [True, True, False, False, False, False, True, True]
    cards.nth(0).click()
    page.keyboard.press("ArrowRight")
    assert f"{scores[1]:.2f}" in page.locator("dialog b").inner_text()
    screenshot = tmp_path / "report.png"
    page.screenshot(path=screenshot)
    page.locator("#close").click()

    page.select_option("#order", "1")
    assert float(page.locator(".card b").first.text_content()) == pytest.approx(
        scores[-1], abs=0.006
    )
    page.fill("#filter", "<b>3")
    assert page.locator(".card:visible").count() == 1
    page.close()
    assert not problems
    assert requests[0].startswith("file://")
    assert all(url.startswith("data:image/webp;base64,") for url in requests[1:])
    with Image.open(screenshot) as image:  # a figure fills the window: many different colors
        assert len(image.convert("RGB").getcolors(2**24)) > 1000


def test_file_is_self_contained_and_whole(rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, iter(rows), tiny_model(), explain=False)
    html = path.read_text()
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", html)
    assert "default-src 'none'" in html
    assert "<script>" not in re.sub(r"<script>\n  const.*?</script>", "", html, flags=re.S)
    assert "data-figure=" not in html
    before = path.read_bytes()

    def broken() -> Any:
        yield rows[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_report(path, broken(), tiny_model(), explain=False)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".tmp*"))


def test_photograph_that_is_gone_keeps_its_card(rows: list[Row], tmp_path: Path) -> None:
    Path(rows[0]["path"]).unlink()
    path = tmp_path / "report.html"
    write_report(path, rows[:3], tiny_model(), explain=True)
    assert path.read_text().count("no picture") == 1
    assert path.read_text().count("data:image/webp") == 2 * 2  # a thumbnail and a figure each


@pytest.mark.parametrize("rows", [[], [{"path": "a", "error": "gone"}]])
def test_nothing_scored_is_a_report_too(rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, rows, tiny_model(), explain=True)
    assert "0 photographs" in path.read_text()


def test_millions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best and the worst of all rows, and each of few rows once, against sorting them all."""
    monkeypatch.setattr(report, "MAX_CARDS", 10)
    for length in (0, 1, 7, 10, 11, 5000):
        scores = np.random.default_rng(length).integers(0, 100, length) / 10  # with ties
        rows = [{"path": i, "color": score, "error": ""} for i, score in enumerate(scores)]
        summary = Summary("color", (0.0, 10.0))
        for item in rows:
            summary.add(item)
        ordered = sorted(rows, key=lambda item: (-item["color"], item["path"]))
        expected = ordered if length <= 10 else ordered[:5] + ordered[-5:]
        assert [item["path"] for item in summary.shown()] == [item["path"] for item in expected]
        assert summary.counts.sum() == length
    expected = np.histogram(scores, bins=np.linspace(0, 10, report.BINS + 1))[0]
    assert abs(summary.counts - expected).sum() <= 0.02 * length  # rounding at the bins' edges
    assert summary.total == pytest.approx(scores.sum())


def test_thousands_make_a_file_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the limit in detailed photographs, in a tenth of 40 MB."""
    monkeypatch.setattr(report, "MAX_CARDS", report.MAX_CARDS // 10)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        noise = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{i}.jpg")
        noise.resize((240, 160), Image.Resampling.BICUBIC).save(paths[-1])
    facts = {"MOS": 5.0, "percentile": 50.0, "width": 240, "height": 160, "note": "", "error": ""}
    rows = ({"path": str(paths[i % 5]), "color": i / 100, **facts} for i in range(1000))
    report_path = tmp_path / "report.html"
    write_report(report_path, rows, tiny_model(), explain=False)
    assert report_path.read_text().count('class="card"') == report.MAX_CARDS
    assert report_path.stat().st_size < 4 * 2**20
