"""Waiting for a condition, in place of sleeping and hoping."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")
_LOOK_SECONDS = 0.01


def until(look: Callable[[], R | None], timeout: float = 15.0) -> R:
    """Looks until it sees something true, and gives it; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < end, f"did not come true within {timeout:g} s: {found!r}"
        pause.wait(_LOOK_SECONDS)
    return found


async def until_async(look: Callable[[], R | None], timeout: float = 15.0) -> R:
    """`until` for the event loop: others run meanwhile."""
    end = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < end, f"did not come true within {timeout:g} s: {found!r}"
        await asyncio.sleep(_LOOK_SECONDS)
    return found
