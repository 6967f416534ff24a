"""Revisions, the bounded history, and the order of a commit's changes."""

from __future__ import annotations

import pytest

from sync_server.domain.errors import RevisionCompacted
from sync_server.domain.runs import (
    HISTORY_LIMIT,
    Change,
    Event,
    NothingNew,
    Run,
    RunCreated,
    VersionCommitted,
    VersionRemoved,
    removal,
)
from sync_server.domain.versions import Cause, Pin
from tests.domain.builders import WALL, at, version


def happen(run: Run, *changes: Change, now: float = 0.0) -> list[Event]:
    """Numbers and applies."""
    events = run.number(changes, at(now))
    for event in events:
        run.apply(event)
    return events


def new_run(revision: int = 0) -> Run:
    """An empty run."""
    return Run("r", created_at=WALL, revision=revision)


def test_every_change_has_the_next_revision_and_the_wall_time() -> None:
    run = new_run(41)
    events = happen(run, RunCreated(), NothingNew("t"), now=3.0)
    assert [(event.revision, event.at) for event in events] == [(42, WALL + 3), (43, WALL + 3)]
    assert run.revision == 43
    assert run.events_after(41) == events


def test_numbering_changes_nothing() -> None:
    run = new_run()
    assert run.number([NothingNew("t")], at(0)) == run.number([NothingNew("t")], at(0))
    assert (run.revision, run.nothing_new_revision, len(run.history)) == (0, 0, 0)


@pytest.mark.parametrize("revision", [-1, 0, 5, 7, 100])
def test_an_event_out_of_order_is_refused(revision: int) -> None:
    run = new_run(5)
    with pytest.raises(ValueError, match=f"event {revision} after revision 5"):
        run.apply(Event(revision, WALL, NothingNew("t")))
    assert (run.revision, run.nothing_new_revision) == (5, 0)


def test_resuming_from_every_revision_of_the_history() -> None:
    run = new_run(10)
    events = happen(run, *[NothingNew(str(index)) for index in range(5)])
    for skipped in range(6):
        assert run.events_after(10 + skipped) == events[skipped:]


@pytest.mark.parametrize("revision", [-(2**63), -1, 0, 9, 16, 2**63 - 1])
def test_what_the_history_does_not_hold_is_said(revision: int) -> None:
    run = new_run(10)
    happen(run, *[NothingNew("t")] * 5)
    with pytest.raises(RevisionCompacted) as caught:
        run.events_after(revision)
    assert caught.value.metadata == {"oldest": "10", "newest": "15"}


def test_a_run_that_was_restored_has_no_history() -> None:
    run = new_run(1000)
    assert run.events_after(1000) == []
    for revision in (999, 1001):
        with pytest.raises(RevisionCompacted):
            run.events_after(revision)


def test_the_history_is_bounded() -> None:
    run = new_run()
    happen(run, *[NothingNew("t")] * (HISTORY_LIMIT + 10))
    assert len(run.history) == HISTORY_LIMIT
    assert len(run.events_after(10)) == HISTORY_LIMIT
    assert run.events_after(10)[0].revision == 11
    with pytest.raises(RevisionCompacted) as caught:
        run.events_after(9)
    assert caught.value.metadata["oldest"] == "10"


# --- commits


def test_a_commit_shows_the_new_version_before_the_old_one_goes() -> None:
    run = new_run()
    happen(run, *run.commit(version(1), 1, at(0)))
    changes = run.commit(version(2), 1, at(1))
    assert [type(change) for change in changes] == [VersionCommitted, VersionRemoved]
    for event in run.number(changes, at(1)):
        run.apply(event)
        latest = run.versions.latest()
        assert latest is not None
        assert latest.number == 2


def test_the_version_carries_the_revision_at_which_it_became_visible() -> None:
    run = new_run(7)
    happen(run, NothingNew("t"))
    (event,) = happen(run, *run.commit(version(1), 2, at(0)))
    assert isinstance(event.change, VersionCommitted)
    assert (event.revision, event.change.version.revision) == (9, 9)


def test_going_back_removes_what_it_supersedes_and_nothing_else() -> None:
    run = new_run()
    for number in (5, 10):
        happen(run, *run.commit(version(number), 2, at(0)))
    changes = run.commit(version(7, "b"), 2, at(1))
    assert changes[1:] == [removal(run.versions.get(10), Cause.SUPERSEDED)]
    happen(run, *changes)
    assert [kept.number for kept in run.versions.all()] == [7, 5]


def test_each_blob_is_removed_once_and_for_the_stronger_reason() -> None:
    run = new_run()
    for number in (1, 2, 3, 4):
        happen(run, *run.commit(version(number), 4, at(0)))
    changes = run.commit(version(3, "b"), 1, at(1))
    removed = [change for change in changes if isinstance(change, VersionRemoved)]
    assert [(change.number, change.cause) for change in removed] == [
        (4, Cause.SUPERSEDED),
        (3, Cause.SUPERSEDED),
        (2, Cause.RETENTION),
        (1, Cause.RETENTION),
    ]


def test_a_version_served_again_keeps_its_own_blob() -> None:
    run = new_run()
    for number in (1, 2):
        happen(run, *run.commit(version(number, pins=[Pin("eval")]), 4, at(0)))
    changes = run.commit(run.versions.get(1), 4, at(1))
    assert [type(change) for change in changes] == [VersionCommitted]  # 2 is pinned


# --- the pointers that are stored beside the events


@pytest.mark.parametrize("number", [4, 5, 7, 10, 12])
def test_pointers_are_told_before_as_they_are_after(number: int) -> None:
    run = new_run()
    for earlier in (5, 10):
        happen(run, *run.commit(version(earlier), 2, at(0)))
    changes = run.commit(version(number, "b"), 2, at(1))
    told = run.pointers_after(changes)
    happen(run, *changes)
    assert told == (run.versions.current, run.versions.superseded_max)
    assert told == (number, None if number > 10 else 10)


def test_pointers_know_of_the_loss_of_the_served_version() -> None:
    run = new_run()
    for earlier in (5, 10):
        happen(run, *run.commit(version(earlier), 2, at(0)))
    for number, expected in ((5, (10, None)), (10, (None, 10))):
        changes = [removal(run.versions.get(number), Cause.DAMAGED)]
        assert run.pointers_after(changes) == expected
        happen(run, *changes)
        assert (run.versions.current, run.versions.superseded_max) == expected


def test_other_changes_leave_the_pointers() -> None:
    run = new_run()
    happen(run, *run.commit(version(5), 2, at(0)))
    assert run.pointers_after([NothingNew("t")]) == (5, None)
