"""Generations, resuming, and the one live trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sync_server.domain.applied import Applied
from sync_server.domain.errors import (
    InvalidArgument,
    RoleMismatch,
    StaleGeneration,
    TrainerActive,
    WorkerNotFound,
)
from sync_server.domain.leases import Instant
from sync_server.domain.workers import MAX_GENERATION, Role, State, WorkerTable
from tests.domain.builders import WALL, add, at, snapshot

RUNNING, REQUIRE, WAITING, STOPPED, LOST = State

# --- generations


def test_a_takeover_raises_the_generation_and_forgets_what_was_applied() -> None:
    table = WorkerTable()
    first = add(table, "e")
    table.put(replace(first, applied=Applied(3, "d", 1.0, True)))
    second = add(table, "e", now=at(1))
    assert (first.generation, second.generation) == (1, 2)
    assert second.applied is None
    assert second.state is RUNNING


def test_a_stale_generation_can_do_nothing() -> None:
    table = WorkerTable()
    add(table, "e")
    add(table, "e")
    unchanged = snapshot(table)
    writes: list[Callable[[], object]] = [
        lambda: table.authorize("e", 1, at(1)),
        lambda: table.authorize_trainer("e", 1, at(1)),
        lambda: table.renew("e", 1, at(1)),
        lambda: table.set_state("e", 1, WAITING, at(1)),
        lambda: table.register("e", Role.EXPLORER, None, at(1), 1),
    ]
    for write in writes:
        with pytest.raises(StaleGeneration) as caught:
            write()
        assert caught.value.metadata == {"worker": "e", "generation": "2"}
    assert snapshot(table) == unchanged


def test_a_generation_that_was_never_given_out_can_do_nothing_either() -> None:
    table = WorkerTable()
    add(table, "e")
    for generation in (-1, 0, 2, 2**63 - 1):
        with pytest.raises(StaleGeneration):
            table.renew("e", generation, at(1))


def test_resuming_keeps_generation_and_what_was_applied() -> None:
    table = WorkerTable()
    first = add(table, "e")
    applied = Applied(3, "d", 1.0, True)
    table.put(replace(first, applied=applied, state=LOST))
    again = add(table, "e", now=at(99), resume=1)
    assert (again.generation, again.applied, again.state) == (1, applied, RUNNING)
    assert not again.lease.expired(at(109))


def test_resuming_where_the_server_lost_everything_keeps_the_generation() -> None:
    table = WorkerTable()
    assert add(table, "e", resume=7).generation == 7
    assert add(table, "e").generation == 8


def test_resuming_after_somebody_else_took_the_name_and_left_is_refused() -> None:
    table = WorkerTable()
    add(table, "t", Role.TRAINER)
    add(table, "t", Role.TRAINER, now=at(20))
    table.remove("t")
    with pytest.raises(StaleGeneration):
        table.register("t", Role.TRAINER, None, at(40), 1)


@pytest.mark.parametrize("resume", [-(2**63), -1, 0, MAX_GENERATION + 1, 2**63 - 1])
def test_a_generation_that_leaves_no_room_for_successors_is_refused(resume: int) -> None:
    """Otherwise the next takeover would overflow the store's 64 bits."""
    with pytest.raises(InvalidArgument):
        WorkerTable().register("e", Role.EXPLORER, None, at(0), resume)


def test_a_name_keeps_its_generation_beyond_its_removal() -> None:
    table = WorkerTable()
    add(table, "e")
    table.remove("e")
    with pytest.raises(WorkerNotFound):
        table.get("e")
    assert add(table, "e").generation == 2


def test_remembering_a_lower_generation_lowers_nothing() -> None:
    table = WorkerTable()
    table.remember_generation("e", 5)
    table.remember_generation("e", 3)
    assert table.generations() == {"e": 5}


# --- one live trainer


@pytest.mark.parametrize("state", [RUNNING, REQUIRE, WAITING])
def test_a_second_trainer_is_refused_while_the_first_is_live(state: State) -> None:
    table = WorkerTable()
    table.put(add(table, "t0", Role.TRAINER).in_state(state, at(0)))
    with pytest.raises(TrainerActive) as caught:
        table.register("t1", Role.TRAINER, None, at(10))
    assert caught.value.metadata == {"worker": "t0", "generation": "1"}
    with pytest.raises(TrainerActive):
        table.authorize_unleased(at(10))


def test_a_trainer_may_take_over_its_own_name_at_any_time() -> None:
    table = WorkerTable()
    add(table, "t0", Role.TRAINER)
    assert add(table, "t0", Role.TRAINER, now=at(1)).generation == 2


def test_an_explorer_that_takes_the_trainers_name_ends_the_trainer() -> None:
    table = WorkerTable()
    add(table, "t0", Role.TRAINER)
    add(table, "t0", Role.EXPLORER, now=at(1))
    assert table.live_trainer(at(1)) is None
    assert add(table, "t1", Role.TRAINER, now=at(1)).role is Role.TRAINER


@pytest.mark.parametrize("way", ["stopped", "expired", "lost", "removed"])
def test_a_trainer_that_is_gone_frees_the_run(way: str) -> None:
    table = WorkerTable()
    first = add(table, "t0", Role.TRAINER)
    now = at(1)
    if way == "stopped":
        table.put(first.in_state(STOPPED, now))
    elif way == "expired":
        now = at(10.5)
    elif way == "lost":
        table.put(first.in_state(LOST, now))
    else:
        table.remove("t0")
    assert table.live_trainer(now) is None
    table.authorize_unleased(now)
    second = add(table, "t1", Role.TRAINER, now=now)
    assert table.live_trainer(now) == second
    assert table.trainer() == second


def test_a_stopped_trainer_can_not_come_back_beside_another() -> None:
    table = WorkerTable()
    table.put(add(table, "t0", Role.TRAINER).in_state(STOPPED, at(0)))
    add(table, "t1", Role.TRAINER, now=at(1))
    with pytest.raises(TrainerActive):
        table.set_state("t0", 1, RUNNING, at(2))
    with pytest.raises(TrainerActive):
        table.authorize_trainer("t0", 1, at(2))
    assert table.set_state("t0", 1, STOPPED, at(2)) is None  # staying stopped harms nobody


def test_a_wall_clock_that_jumps_back_makes_no_room_for_a_second_trainer() -> None:
    """t0's lease is over, t1 holds the run, and t1's wall time lies before t0's."""
    table = WorkerTable()
    add(table, "t0", Role.TRAINER, now=Instant(0.0, WALL))
    add(table, "t1", Role.TRAINER, now=Instant(11.0, WALL - 3600))
    live = table.live_trainer(Instant(12.0, WALL - 3599))
    assert live is not None
    assert live.worker_id == "t1"
    with pytest.raises(TrainerActive):
        table.register("t2", Role.TRAINER, None, Instant(12.0, WALL - 3599))


def test_only_trainers_may_write_versions() -> None:
    table = WorkerTable()
    add(table, "e")
    with pytest.raises(RoleMismatch):
        table.authorize_trainer("e", 1, at(1))
