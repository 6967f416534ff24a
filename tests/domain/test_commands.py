"""Commands on versions: what they change, what they answer, what they refuse."""

from __future__ import annotations

import pytest

from sync_server.domain import commands
from sync_server.domain.errors import (
    DomainError,
    InvalidArgument,
    LeaseExpired,
    RoleMismatch,
    StaleGeneration,
    TrainerActive,
    VersionExists,
    VersionInUse,
    VersionNotFound,
    VersionNotNewer,
    VersionRetired,
    WorkerNotFound,
)
from sync_server.domain.runs import (
    NothingNew,
    VersionChanged,
    VersionCommitted,
    VersionRemoved,
)
from sync_server.domain.versions import Cause, Pin, Pusher, Version
from sync_server.domain.workers import Role
from tests.domain.builders import TRAINER, WALL, at, drive, join, kinds, push, run_with, version

# --- pushing


def test_a_push_is_dated_and_numbered_by_the_commit() -> None:
    run = run_with()
    committed, existed = push(run, version(3, pusher=TRAINER), now=5.0)
    assert not existed
    assert (committed.committed_at, committed.revision) == (WALL + 5, run.revision)
    assert run.versions.latest() == committed


def test_the_same_push_again_changes_nothing_and_gives_the_first_answer() -> None:
    run = run_with(3)
    before = run.revision
    again = version(3, pusher=TRAINER, blob_id="run/another")
    assert push(run, again) == (run.versions.get(3), True)
    assert run.versions.get(3).blob_id == "run/3-a"
    assert run.revision == before


def test_a_trainer_that_resumed_serves_an_older_version_again() -> None:
    run = run_with(3, 5)
    join(run, "t", Role.TRAINER)
    older = version(3, pusher=Pusher("t", 2), blob_id="run/another")
    events, (committed, existed) = drive(run, at(9), commands.commit, version=older, keep=10)
    assert existed
    assert kinds(events) == [VersionCommitted, VersionRemoved]
    # The bytes that are there already are served; the lineage is the new trainer's.
    assert (committed.blob_id, committed.pusher) == ("run/3-a", Pusher("t", 2))
    assert (committed.committed_at, committed.revision) == (WALL + 9, events[0].revision)
    assert run.versions.latest() == committed
    with pytest.raises(VersionRetired):
        run.versions.get(5)


def test_a_pinned_version_from_before_the_rewind_can_become_the_newest_again() -> None:
    run = run_with(3, 5)
    drive(run, at(1), commands.pin, number=5, owner="eval", ttl=None)
    join(run, "t", Role.TRAINER)
    new = Pusher("t", 2)
    push(run, version(4, "b", pusher=new))
    committed, existed = push(run, version(5, pusher=new))
    assert existed
    assert run.versions.latest() == committed
    assert [pin.owner for pin in committed.pins] == ["eval"]


def test_using_the_number_of_a_pinned_version_again_replaces_it() -> None:
    run = run_with(3, 5)
    drive(run, at(1), commands.pin, number=5, owner="eval", ttl=None)
    join(run, "t", Role.TRAINER)
    new = Pusher("t", 2)
    push(run, version(4, "b", pusher=new))
    events, _ = drive(run, at(1), commands.commit, version=version(5, "b", pusher=new), keep=10)
    assert kinds(events) == [VersionCommitted, VersionRemoved]
    assert (run.versions.get(5).digest, run.versions.get(5).pins) == ("b", ())


PUSHES: list[tuple[str, Version, float, type[DomainError]]] = [
    ("explorer", version(9, pusher=Pusher("e", 1)), 1.0, RoleMismatch),
    ("stranger", version(9, pusher=Pusher("x", 1)), 1.0, WorkerNotFound),
    ("stale", version(9, pusher=Pusher("t", 0)), 1.0, StaleGeneration),
    ("expired", version(9, pusher=TRAINER), 10.5, LeaseExpired),
    ("unleased beside a trainer", version(9), 1.0, TrainerActive),
    ("old number", version(4, pusher=TRAINER), 1.0, VersionNotNewer),
    ("other bytes", version(5, "b", pusher=TRAINER), 1.0, VersionExists),
    ("no number", version(-1, pusher=TRAINER), 1.0, InvalidArgument),
]


@pytest.mark.parametrize(
    ("item", "now", "refused"), [row[1:] for row in PUSHES], ids=[row[0] for row in PUSHES]
)
def test_a_push_that_is_refused(item: Version, now: float, refused: type[DomainError]) -> None:
    run = run_with(5)
    join(run, "e")
    before = run.revision
    with pytest.raises(refused):
        push(run, item, now=now)
    assert (run.revision, run.versions.current) == (before, 5)


def test_anybody_may_push_once_the_trainer_is_gone() -> None:
    run = run_with(5)
    push(run, version(6), now=10.5)
    assert run.versions.current == 6


def test_nothing_new_is_for_whoever_may_push() -> None:
    run = run_with(5)
    events, _ = drive(run, at(1), commands.nothing_new, pusher=TRAINER)
    assert events[0].change == NothingNew("t")
    assert run.nothing_new_revision == events[0].revision == run.revision
    with pytest.raises(TrainerActive):
        commands.nothing_new(run, at(1), pusher=Pusher())


# --- pins, deletion, loss


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [7, 5]), (2, [7, 5]), (3, [7, 5, 3])], ids=["1", "2", "3"]
)
def test_a_version_that_only_its_pin_kept_retires_with_it(keep: int, left: list[int]) -> None:
    run = run_with(3, 5, 7)
    drive(run, at(1), commands.pin, number=3, owner="eval", ttl=None)
    events, answer = drive(run, at(2), commands.unpin, number=3, owner="eval", keep=keep)
    assert answer.pins == ()
    assert events[0].change == VersionChanged(answer)
    assert [item.number for item in run.versions.all()] == left
    if len(events) > 1:
        assert isinstance(events[1].change, VersionRemoved)
        assert events[1].change.cause is Cause.RETENTION


def test_a_version_with_another_pin_stays() -> None:
    run = run_with(3, 5, 7)
    for owner in ("a", "b"):
        drive(run, at(1), commands.pin, number=3, owner=owner, ttl=None)
    drive(run, at(2), commands.unpin, number=3, owner="a", keep=1)
    assert run.versions.get(3).pins == (Pin("b"),)


def test_unpinning_what_the_run_went_back_from_retires_it() -> None:
    run = run_with(5, 10)
    drive(run, at(1), commands.pin, number=10, owner="eval", ttl=None)
    join(run, "t", Role.TRAINER)
    push(run, version(7, pusher=Pusher("t", 2)))
    assert [item.number for item in run.versions.all()] == [7, 10, 5]
    events, _ = drive(run, at(2), commands.unpin, number=10, owner="eval", keep=10)
    assert kinds(events) == [VersionChanged, VersionRemoved]
    assert [item.number for item in run.versions.all()] == [7, 5]


def test_unpinning_the_served_version_never_retires_it() -> None:
    run = run_with(5)
    drive(run, at(1), commands.pin, number=5, owner="eval", ttl=None)
    drive(run, at(1), commands.unpin, number=5, owner="eval", keep=1)
    assert run.versions.current == 5


def test_deleting() -> None:
    run = run_with(5, 7)
    with pytest.raises(VersionInUse):
        commands.delete(run, at(1), number=7)
    events, _ = drive(run, at(1), commands.delete, number=5)
    assert events[0].change == VersionRemoved(5, "a", "run/5-a", Cause.DELETED)
    with pytest.raises(VersionRetired):
        commands.delete(run, at(1), number=5)


def test_a_damaged_version_goes_even_if_it_is_served_and_pinned() -> None:
    run = run_with(5, 7)
    drive(run, at(1), commands.pin, number=7, owner="eval", ttl=None)
    with pytest.raises(InvalidArgument):
        commands.lose_blob(run, at(1), number=7, blob_id="run/5-a")
    drive(run, at(1), commands.lose_blob, number=7, blob_id="run/7-a")
    assert run.versions.latest() is None
    with pytest.raises(VersionNotFound):
        commands.lose_blob(run, at(1), number=8, blob_id="run/8-a")
    push(run, version(7, pusher=TRAINER, blob_id="run/again"))  # the trainer sends it again
    assert run.versions.get(7).blob_id == "run/again"
