"""When a wait for a version is over (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sync_server.domain.versions import VersionBook
from sync_server.domain.workers import State


class Outcome(Enum):
    """Why a wait ended."""

    REACHED = "reached"
    TIMED_OUT = "timed out"
    TRAINER_STOPPED = "trainer stopped"
    TRAINER_LOST = "trainer lost"
    NOTHING_NEW = "nothing new"


@dataclass(frozen=True, slots=True)
class Held:
    """What the waiting side has: a number (None: nothing), and its digest where it knows it."""

    version: int | None
    digest: str = ""


def is_rewound(book: VersionBook, held: Held) -> bool:
    """Whether what is held was superseded, so that a number not above it is news.

    A number is above every one that was ever given out, or within the range that was superseded,
    or simply not reached yet. Only the second is a rewind.
    """
    latest = book.latest()
    if latest is None or held.version is None or held.version < latest.number:
        return False
    if held.version == latest.number:
        return bool(held.digest) and held.digest != latest.digest
    return book.superseded_max is not None and held.version <= book.superseded_max


def wait_outcome(
    book: VersionBook, trainer_state: State | None, held: Held, *, nothing_new: bool
) -> Outcome | None:
    """Why the wait is over now, or None to go on waiting.

    A new version goes first: a trainer that pushed and then stopped still delivered.
    """
    latest = book.latest()
    if latest is not None and (
        held.version is None or latest.number > held.version or is_rewound(book, held)
    ):
        return Outcome.REACHED
    if nothing_new:
        return Outcome.NOTHING_NEW
    if trainer_state is State.STOPPED:
        return Outcome.TRAINER_STOPPED
    if trainer_state is State.LOST:
        return Outcome.TRAINER_LOST
    return None
