"""When a wait is over: rewinds, and the trainer's end."""

from __future__ import annotations

import pytest

from sync_server.domain.versions import Cause, VersionBook
from sync_server.domain.waits import Held, Outcome, is_rewound, wait_outcome
from sync_server.domain.workers import State
from tests.domain.builders import version

EMPTY: list[tuple[int, str]] = []
RISEN = [(5, "a"), (10, "a")]
WENT_BACK = [(5, "a"), (10, "a"), (7, "b")]  # 8 to 10 may be held and are nobody's any more
ROSE_AGAIN = [*WENT_BACK, (8, "b"), (9, "b")]
PASSED = [*ROSE_AGAIN, (12, "b")]
REPLACED = [(5, "a"), (5, "b")]
BACK_TWICE = [(10, "a"), (4, "b"), (6, "b"), (5, "c")]


def served(commits: list[tuple[int, str]]) -> VersionBook:
    """A book that served these versions one after the other."""
    book = VersionBook()
    for revision, (number, digest) in enumerate(commits, start=1):
        book.put(version(number, digest, revision=revision))
        book.point_at(number)
    return book


# commits, held, is it reached, is it a rewind
ROWS: list[tuple[list[tuple[int, str]], Held, bool, bool]] = [
    (EMPTY, Held(None), False, False),
    (EMPTY, Held(0), False, False),
    (EMPTY, Held(10, "a"), False, False),
    (RISEN, Held(None), True, False),
    (RISEN, Held(0, "x"), True, False),
    (RISEN, Held(5, "a"), True, False),
    (RISEN, Held(9), True, False),
    (RISEN, Held(10, "a"), False, False),
    (RISEN, Held(10), False, False),
    (RISEN, Held(10, "x"), True, True),  # the same number with other bytes
    (RISEN, Held(11), False, False),  # not there yet
    (WENT_BACK, Held(5, "a"), True, False),
    (WENT_BACK, Held(7, "b"), False, False),
    (WENT_BACK, Held(7, "a"), True, True),
    (WENT_BACK, Held(7), False, False),  # without a digest nobody can tell
    (WENT_BACK, Held(8), True, True),
    (WENT_BACK, Held(10, "a"), True, True),
    (WENT_BACK, Held(11), False, False),
    (ROSE_AGAIN, Held(10, "a"), True, True),
    (ROSE_AGAIN, Held(9, "b"), False, False),
    (ROSE_AGAIN, Held(9, "a"), True, True),
    (ROSE_AGAIN, Held(8, "b"), True, False),
    (PASSED, Held(10, "a"), True, False),
    (PASSED, Held(12, "b"), False, False),
    (PASSED, Held(13), False, False),
    (REPLACED, Held(5, "a"), True, True),
    (REPLACED, Held(5, "b"), False, False),
    (BACK_TWICE, Held(6, "b"), True, True),
    (BACK_TWICE, Held(10, "a"), True, True),  # how far they had come is not forgotten
    (BACK_TWICE, Held(5, "c"), False, False),
]


@pytest.mark.parametrize(("commits", "held", "reached", "rewound"), ROWS)
def test_what_counts_as_new(
    commits: list[tuple[int, str]], held: Held, reached: bool, rewound: bool
) -> None:
    book = served(commits)
    assert is_rewound(book, held) is rewound
    outcome = wait_outcome(book, State.RUNNING, held, nothing_new=False)
    assert outcome is (Outcome.REACHED if reached else None)


def test_who_held_a_version_that_was_lost_is_given_what_comes_next() -> None:
    """The served bytes turned out damaged and the trainer went back to before them."""
    book = served(RISEN)
    book.retire(10, version(10).blob_id, Cause.DAMAGED)
    assert wait_outcome(book, None, Held(10, "a"), nothing_new=False) is None
    book.put(version(9, "b", revision=9))
    book.point_at(9)
    assert is_rewound(book, Held(10, "a"))
    book.put(version(10, revision=10))
    book.point_at(10)
    assert not is_rewound(book, Held(10, "a"))


@pytest.mark.parametrize(
    ("trainer", "nothing_new", "outcome"),
    [
        (None, False, None),
        (State.RUNNING, False, None),
        (State.REQUIRE_SYNC, False, None),
        (State.WAITING_SYNC, False, None),
        (State.STOPPED, False, Outcome.TRAINER_STOPPED),
        (State.LOST, False, Outcome.TRAINER_LOST),
        (None, True, Outcome.NOTHING_NEW),
        (State.RUNNING, True, Outcome.NOTHING_NEW),
        (State.STOPPED, True, Outcome.NOTHING_NEW),
    ],
)
def test_when_there_is_nothing_to_wait_for(
    trainer: State | None, nothing_new: bool, outcome: Outcome | None
) -> None:
    book = served(RISEN)
    assert wait_outcome(book, trainer, Held(10, "a"), nothing_new=nothing_new) is outcome
    # A new version goes first, whatever else is true.
    assert wait_outcome(book, trainer, Held(5), nothing_new=nothing_new) is Outcome.REACHED
