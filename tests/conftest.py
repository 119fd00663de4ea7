"""Fixtures for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"reference data not at hand: {folder}")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless Chromium, driven by playwright; tests that need it skip without one."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.is_file():
        pytest.skip("no browser at hand: apt-get install chromium")
    flags = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=str(chromium), args=[f"--{flag}" for flag in flags]
        )
