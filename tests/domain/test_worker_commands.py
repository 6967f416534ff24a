"""Commands on workers: states, reports, leaving."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sync_server.domain import commands
from sync_server.domain.errors import DomainError, StaleGeneration
from sync_server.domain.runs import Run, WorkerChanged, WorkerRemoved
from sync_server.domain.workers import State
from tests.domain.builders import at, drive, join, kinds, run_with


def test_setting_the_state_that_is_there_is_no_change() -> None:
    run = run_with()
    events, worker = drive(
        run,
        at(1),
        commands.set_state,
        worker_id="t",
        generation=1,
        state=State.RUNNING,
        expected=None,
    )
    assert events == []
    assert worker == run.workers.get("t")


def test_a_report_is_verified_only_by_the_digest_of_that_version() -> None:
    run = run_with(3, 5)
    join(run, "e")
    for number, digest, verified in (
        (5, "a", True),
        (5, "b", False),
        (3, "a", True),
        (4, "a", False),
    ):
        _, worker = drive(
            run,
            at(2),
            commands.report_applied,
            worker_id="e",
            generation=1,
            version=number,
            digest=digest,
        )
        assert worker.applied is not None
        assert (worker.applied.version, worker.applied.verified) == (number, verified)
        assert run.workers.get("e") == worker


def test_a_report_of_a_version_that_was_just_retired_is_verified_all_the_same() -> None:
    run = run_with(3, 5, 7, keep=1)  # 3 and 5 were retired while the explorer loaded them
    join(run, "e")
    for digest, verified in (("a", True), ("b", False)):
        _, worker = drive(
            run,
            at(2),
            commands.report_applied,
            worker_id="e",
            generation=1,
            version=5,
            digest=digest,
        )
        assert worker.applied is not None
        assert worker.applied.verified is verified


LEAVES: list[tuple[str, Callable[[Run], object], int, float, list[type] | type[DomainError]]] = [
    ("live", lambda run: None, 1, 1.0, [WorkerRemoved]),
    ("unknown", lambda run: run.workers.remove("e"), 1, 1.0, []),
    ("expired, not yet noticed", lambda run: None, 1, 99.0, [WorkerRemoved]),
    ("lost", lambda run: _become(run, State.LOST), 1, 99.0, [WorkerRemoved]),
    ("stopped", lambda run: _become(run, State.STOPPED), 1, 1.0, [WorkerRemoved]),
    ("stopped and expired", lambda run: _become(run, State.STOPPED), 1, 99.0, [WorkerRemoved]),
    ("taken over", lambda run: join(run, "e"), 1, 1.0, StaleGeneration),
    ("lost under another generation", lambda run: _become(run, State.LOST), 7, 1.0, []),
]


@pytest.mark.parametrize(
    ("prepare", "generation", "now", "outcome"),
    [row[1:] for row in LEAVES],
    ids=[row[0] for row in LEAVES],
)
def test_leaving(
    prepare: Callable[[Run], object],
    generation: int,
    now: float,
    outcome: list[type] | type[DomainError],
) -> None:
    run = run_with()
    join(run, "e")
    prepare(run)
    if isinstance(outcome, list):
        events, _ = drive(run, at(now), commands.deregister, worker_id="e", generation=generation)
        assert kinds(events) == outcome
    else:
        with pytest.raises(outcome):
            commands.deregister(run, at(now), worker_id="e", generation=generation)


def _become(run: Run, state: State) -> None:
    run.apply(run.number([WorkerChanged(run.workers.get("e").in_state(state, at(1)))], at(1))[0])
