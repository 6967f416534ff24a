"""Whether a worker serves a version; and that the SDK's view of a run says the same."""

from __future__ import annotations

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sync_client import convert as sdk
from sync_client.staleness import RunView
from sync_client.types import RunStatus
from sync_server.domain import commands
from sync_server.domain.errors import WorkerNotFound
from sync_server.domain.runs import Run
from sync_server.domain.staleness import serves
from sync_server.domain.versions import Pusher
from sync_server.domain.workers import GONE, Role, State
from sync_server.services import convert
from sync_server.services.runs import _event
from tests.domain.builders import at, drive, join, push, run_with, version
from weightsync.v1 import runs_pb2


def report(run: Run, name: str, number: int, digest: str = "a", now: float = 2.0) -> None:
    """An explorer says what it has."""
    drive(
        run,
        at(now),
        commands.report_applied,
        worker_id=name,
        generation=run.workers.get(name).generation,
        version=number,
        digest=digest,
    )


def test_a_worker_serves_what_it_reported_and_all_before_it() -> None:
    run = run_with(3, 5)
    join(run, "e")
    assert serves(run, "e", None, at(2))
    assert not serves(run, "e", 0, at(2))
    report(run, "e", 3)
    assert [serves(run, "e", n, at(2)) for n in (0, 3, 4, 5)] == [True, True, False, False]
    report(run, "e", 5)
    assert [serves(run, "e", n, at(2)) for n in (4, 5, 6)] == [True, True, False]


@pytest.mark.parametrize("gone", ["stopped", "lost", "expired, not yet noticed"])
def test_a_worker_that_is_gone_serves_nothing(gone: str) -> None:
    run = run_with(3)
    join(run, "e")
    report(run, "e", 3)
    now = at(2)
    if gone == "stopped":
        run.workers.put(run.workers.get("e").in_state(State.STOPPED, now))
    elif gone == "lost":
        run.workers.put(run.workers.get("e").in_state(State.LOST, now))
    else:
        now = at(10.5)
    assert not serves(run, "e", 3, now)
    assert not serves(run, "e", None, now)


def test_nobody_knows_a_worker_that_is_not_there() -> None:
    with pytest.raises(WorkerNotFound):
        serves(run_with(3), "e", None, at(2))


def test_what_was_superseded_is_not_served_however_high_its_number() -> None:
    run = run_with(41, 50)
    for name, number in (("ahead", 50), ("same", 41)):
        join(run, name)
        report(run, name, number)
    join(run, "t", Role.TRAINER, now=at(3))
    push(run, version(41, "other bytes", pusher=Pusher("t", 2)), now=3)
    assert not serves(run, "ahead", 41, at(4))
    assert not serves(run, "same", 41, at(4))
    report(run, "same", 41, "other bytes", now=4)
    assert serves(run, "same", 41, at(4))


class AgreementMachine(RuleBasedStateMachine):
    """The server's `serves` and the SDK's `RunView` over the same history of one run.

    A view follows every event; another one starts from a snapshot at each look. Explorers report
    what can be pulled, or the newest number with bytes of their own.
    """

    @initialize(explorers=st.integers(1, 3))
    def begin(self, explorers: int) -> None:
        self.run = Run("r", created_at=0.0)
        self.generation = join(self.run, "t", Role.TRAINER).generation
        self.names = [f"e{index}" for index in range(explorers)]
        for name in self.names:
            join(self.run, name)
        self.view = RunView()
        self.view.take(self.snapshot())
        self.seen = self.run.revision
        self.serial = 0

    def snapshot(self) -> RunStatus:
        """The run over the wire."""
        message = runs_pb2.Run.FromString(convert.run(self.run, []).SerializeToString())
        return sdk.run(message)

    @rule(step=st.integers(1, 3))
    def pushes(self, step: int) -> None:
        latest = self.run.versions.latest()
        self.commit(step if latest is None else latest.number + step)

    @precondition(lambda self: self.run.versions.latest() is not None)
    @rule(data=st.data())
    def crashes_and_goes_back(self, data: st.DataObject) -> None:
        latest = self.run.versions.latest()
        assert latest is not None
        self.generation = join(self.run, "t", Role.TRAINER, now=at(1)).generation
        self.commit(data.draw(st.integers(max(1, latest.number - 5), latest.number)))
        event("a rewind")

    def commit(self, number: int) -> None:
        self.serial += 1
        pusher = Pusher("t", self.generation)
        push(self.run, version(number, f"bytes {self.serial}", pusher=pusher), keep=3)

    @precondition(lambda self: self.run.versions.all())
    @rule(data=st.data(), own_bytes=st.booleans())
    def reports(self, data: st.DataObject, own_bytes: bool) -> None:
        item = data.draw(st.sampled_from(self.run.versions.all()))
        report(
            self.run,
            data.draw(st.sampled_from(self.names)),
            item.number,
            "own bytes" if own_bytes else item.digest,
        )

    @rule(data=st.data(), state=st.sampled_from([State.STOPPED, State.RUNNING]))
    def stops_or_goes_on(self, data: st.DataObject, state: State) -> None:
        name = data.draw(st.sampled_from(self.names))
        drive(
            self.run,
            at(2),
            commands.set_state,
            worker_id=name,
            generation=1,
            state=state,
            expected=None,
        )

    @precondition(lambda self: self.run.versions.latest() is not None)
    @rule()
    def the_newest_turns_out_to_be_damaged(self) -> None:
        latest = self.run.versions.latest()
        assert latest is not None
        drive(self.run, at(2), commands.lose_blob, number=latest.number, blob_id=latest.blob_id)

    @invariant()
    def both_say_the_same(self) -> None:
        for item in self.run.events_after(self.seen):
            wire = _event("r", item).SerializeToString()
            self.view.apply(sdk.event(runs_pb2.WatchRunResponse.FromString(wire)))
        self.seen = self.run.revision
        fresh = RunView()
        fresh.take(self.snapshot())
        assert self.view.latest == fresh.latest
        assert self.view.workers == fresh.workers
        live = [name for name in self.names if self.run.workers.get(name).state not in GONE]
        assert [worker.name for worker in self.view.explorers()] == live
        top = max((item.number for item in self.run.versions.all()), default=0)
        for number in range(1, top + 8):
            behind = [name for name in live if not serves(self.run, name, number, at(2))]
            assert self.view.behind(number) == behind, number


TestAgreement = AgreementMachine.TestCase
TestAgreement.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
