"""SIGTERM and SIGINT as a request to stop soon: how clusters take a machine back.

The training loop finishes its step, saves a checkpoint and leaves with exit code 75 (EX_TEMPFAIL
of sysexits.h: try again later). `--resume auto` goes on exactly there. A second Ctrl-C kills.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75


class Preempted(Exception):
    """Training was asked to stop, and has saved what there is."""


class StopRequest:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of dying of them, within the block."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # who asks twice does not want to wait

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
