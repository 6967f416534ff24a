"""Whether a transfer still moves: who lets the port wait, or drips, is cut off."""

from __future__ import annotations

MIN_BYTES_PER_SECOND = 32 << 10
"""Slower than any link that is of use, faster than somebody who wants to hold a thread."""


class TooSlow(ConnectionError):
    """The peer does not keep up the least pace."""


class Pace:
    """Watches one transfer. Call `moved` after every piece with what moved and the time."""

    def __init__(self, window_seconds: float, now: float) -> None:
        """At least `MIN_BYTES_PER_SECOND` in each window, or TooSlow."""
        self._window = window_seconds
        self._begin = now
        self._bytes = 0

    def moved(self, count: int, now: float) -> None:
        """Raises TooSlow."""
        self._bytes += count
        if now - self._begin < self._window:
            return
        if self._bytes < MIN_BYTES_PER_SECOND * self._window:
            raise TooSlow(f"{self._bytes} bytes in {now - self._begin:.0f} s")
        self._begin, self._bytes = now, 0
