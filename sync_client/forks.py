"""gRPC ends a process that was forked beside an open channel as soon as it opens its own.

This notices the fork, so that the child gets an exception that says what to do instead.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from sync_client import errors


class HasChannel(Protocol):
    """A connection."""

    @property
    def open(self) -> bool:
        """Whether there is a channel."""


connected: weakref.WeakSet[HasChannel] = weakref.WeakSet()
"""Every connection that ever opened a channel in this process or in its parents."""

_broken = False


def check() -> None:
    """Raises ForkedClient in a process in which gRPC would abort."""
    if _broken:
        raise errors.ForkedClient(
            "this process was forked while its parent had a client open, and gRPC does not "
            "survive that: close clients before a fork, or start processes with spawn"
        )


def _note() -> None:
    """Called in every child of a fork."""
    global _broken  # noqa: PLW0603 - one flag of the process
    _broken = _broken or any(connection.open for connection in connected)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
