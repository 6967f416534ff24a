"""Signals of the demo's own process: each ends it as Ctrl-C does, but never halfway."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, so that `with` blocks end.

    What is ignored, as SIGHUP under nohup, stays so. In the main thread only.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that come during the block are handled after it. In the main thread only.

    Otherwise a process that was just started, and that nobody has noted yet, would be forgotten.
    """
    came: list[tuple[int, FrameType | None]] = []
    before = {
        number: handler
        for number in _ENDING
        if callable(handler := signal.getsignal(number))  # neither ignored nor the system's
    }
    for number in before:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late, frame in came:
        before[signal.Signals(late)](late, frame)


def _leave(number: int, frame: object) -> None:
    del frame
    raise SystemExit(128 + number)
