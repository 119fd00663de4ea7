"""Fixtures for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: sums in another order round otherwise, and processes started by these
    tests have one thread, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
