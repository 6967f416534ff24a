"""In whose name something is written."""

from __future__ import annotations

from typing import NamedTuple


class Author(NamedTuple):
    """A worker by its resource name `runs/{run}/workers/{worker}`, and the generation it holds.

    The server refuses a generation that is stale, so an author can be handed to the other
    processes of a trainer: when the trainer is replaced, all of them may write no more.
    """

    worker: str = ""
    generation: int = 0


NOBODY = Author()
"""Without a lease: refused while a live trainer holds the run."""
