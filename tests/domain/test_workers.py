"""The transition table, compare-and-set, and the leases of workers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from sync_server.domain.errors import (
    DomainError,
    IllegalTransition,
    InvalidState,
    LeaseExpired,
    StateMismatch,
    WorkerNotFound,
)
from sync_server.domain.leases import grant
from sync_server.domain.workers import Role, State, WorkerTable
from tests.domain.builders import WALL, add, at, snapshot

RUNNING, REQUIRE, WAITING, STOPPED, LOST = State

# Written out by hand from the design: True is allowed, else the error.
OUTCOMES: dict[tuple[State, State], bool | type[DomainError]] = {
    (RUNNING, RUNNING): True,
    (RUNNING, REQUIRE): True,
    (RUNNING, WAITING): True,
    (RUNNING, STOPPED): True,
    (RUNNING, LOST): InvalidState,
    (REQUIRE, RUNNING): True,
    (REQUIRE, REQUIRE): True,
    (REQUIRE, WAITING): True,
    (REQUIRE, STOPPED): True,
    (REQUIRE, LOST): InvalidState,
    (WAITING, RUNNING): True,
    (WAITING, REQUIRE): True,
    (WAITING, WAITING): True,
    (WAITING, STOPPED): True,
    (WAITING, LOST): InvalidState,
    (STOPPED, RUNNING): True,
    (STOPPED, REQUIRE): IllegalTransition,
    (STOPPED, WAITING): IllegalTransition,
    (STOPPED, STOPPED): True,
    (STOPPED, LOST): InvalidState,
    (LOST, RUNNING): LeaseExpired,
    (LOST, REQUIRE): LeaseExpired,
    (LOST, WAITING): LeaseExpired,
    (LOST, STOPPED): LeaseExpired,
    (LOST, LOST): InvalidState,
}


def test_the_table_of_outcomes_has_every_pair() -> None:
    assert set(OUTCOMES) == set(product(State, State))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("before", "after"), sorted(OUTCOMES, key=str))
def test_every_transition(role: Role, before: State, after: State) -> None:
    table = WorkerTable()
    registered = add(table, "w", role)
    table.put(registered.in_state(before, at(1)))
    unchanged = snapshot(table)
    outcome = OUTCOMES[before, after]
    if outcome is not True:
        assert isinstance(outcome, type)
        with pytest.raises(outcome):
            table.set_state("w", 1, after, at(2))
    else:
        decided = table.set_state("w", 1, after, at(2))
        if before is after:
            assert decided is None
        else:
            assert decided is not None
            assert (decided.state, decided.state_changed_at) == (after, WALL + 2)
            assert (decided.generation, decided.lease) == (1, registered.lease)
    assert snapshot(table) == unchanged  # a decision changes nothing by itself


@pytest.mark.parametrize(("present", "expected"), list(product(list(State)[:4], repeat=2)))
def test_compare_and_set(present: State, expected: State) -> None:
    table = WorkerTable()
    table.put(add(table, "w").in_state(present, at(0)))
    if present is expected:
        decided = table.set_state("w", 1, RUNNING, at(1), expected)
        assert (decided.state if decided else present) is RUNNING
    else:
        with pytest.raises(StateMismatch) as caught:
            table.set_state("w", 1, RUNNING, at(1), expected)
        assert caught.value.metadata == {"state": present.value}


def test_the_mismatch_is_told_before_the_illegal_transition() -> None:
    """A caller that lost a race must learn the state, not that its idea was wrong."""
    table = WorkerTable()
    table.put(add(table, "w").in_state(STOPPED, at(0)))
    with pytest.raises(StateMismatch):
        table.set_state("w", 1, WAITING, at(1), RUNNING)


# --- leases of workers


def test_a_lease_that_ran_out_refuses_every_write_even_before_it_is_noticed() -> None:
    table = WorkerTable()
    add(table, "e")
    assert table.authorize("e", 1, at(10)).worker_id == "e"
    writes: list[Callable[[], object]] = [
        lambda: table.authorize("e", 1, at(10.1)),
        lambda: table.renew("e", 1, at(10.1)),
        lambda: table.set_state("e", 1, WAITING, at(10.1)),
    ]
    for write in writes:
        with pytest.raises(LeaseExpired):
            write()


def test_expiry_takes_those_whose_lease_is_over_and_leaves_stopped_ones() -> None:
    table = WorkerTable()
    add(table, "short", lease=1.0)
    add(table, "long", lease=100.0)
    table.put(add(table, "done", lease=1.0).in_state(STOPPED, at(0)))
    table.put(add(table, "gone", lease=1.0).in_state(LOST, at(0)))
    assert table.next_expiry() == 1.0
    assert table.expire(at(1.0)) == []
    lost = table.expire(at(1.5))
    assert [(w.worker_id, w.state, w.state_changed_at) for w in lost] == [
        ("short", LOST, WALL + 1.5)
    ]
    for worker in lost:
        table.put(worker)
    assert table.expire(at(1.5)) == []
    assert table.next_expiry() == 100.0
    table.remove("long")
    assert table.next_expiry() is None


def test_a_lost_worker_is_counted_as_lost_and_renews_nothing() -> None:
    table = WorkerTable()
    table.put(add(table, "e").in_state(LOST, at(1)))
    assert table.explorer_counts() == {LOST: 1}
    with pytest.raises(LeaseExpired):
        table.renew("e", 1, at(1))


def test_an_older_record_does_not_take_back_a_renewal() -> None:
    """A change was decided, a heartbeat came while it was being stored, then it is applied."""
    table = WorkerTable()
    decided = add(table, "e").in_state(WAITING, at(1))
    table.put(table.renew("e", 1, at(9)))
    table.put(decided)
    assert table.get("e").state is WAITING
    assert table.get("e").lease.expires_at == 19.0


def test_another_duration_is_a_new_promise() -> None:
    table = WorkerTable()
    add(table, "e", lease=100.0)
    add(table, "e", lease=5.0, now=at(1), resume=1)
    assert table.get("e").lease == grant(5.0, at(1))


def test_counts_are_of_explorers_alone() -> None:
    table = WorkerTable()
    add(table, "t", Role.TRAINER)
    add(table, "a")
    add(table, "b")
    table.put(add(table, "c").in_state(WAITING, at(0)))
    assert table.explorer_counts() == {RUNNING: 2, WAITING: 1}
    assert [worker.worker_id for worker in table.all()] == ["a", "b", "c", "t"]


def test_an_unknown_worker_is_told_so() -> None:
    with pytest.raises(WorkerNotFound) as caught:
        WorkerTable().renew("nobody", 1, at(0))
    assert caught.value.metadata == {"worker": "nobody"}
