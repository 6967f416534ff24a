"""Random histories of trainers and explorers on the real server, against the simple model.

`make histories` runs 10,000; CI a part of it. Acceptance: no disagreement.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.histories.live import DIGESTS, Client, LiveServer, finished
from tests.histories.model import LIVE, Model, ModelWait
from weightsync.v1 import runs_pb2, weights_pb2, workers_pb2

HISTORIES = int(os.environ.get("WEIGHTSYNC_HISTORIES", "150"))
KEEP = 2
ROLES = {"t0": "trainer", "t1": "trainer", "e0": "explorer", "e1": "explorer"}
NAMES = st.sampled_from(sorted(ROLES))
TRAINERS = st.sampled_from(["", "t0", "t0", "t1"])
STATES = st.sampled_from(["RUNNING", "REQUIRE_SYNC", "WAITING_SYNC", "STOPPED", "LOST"])
NUMBERS = st.integers(0, 6)
CONTENTS = st.integers(0, len(DIGESTS) - 1)
STALE = st.integers(0, 1)  # how far behind the generation of a write is


class Histories(RuleBasedStateMachine):
    """Every rule is one call; the model says beforehand how it must end."""

    server: ClassVar[LiveServer]
    client: ClassVar[Client]

    def __init__(self) -> None:
        super().__init__()
        self.run_id = next(self.server.run_ids)
        self.model = Model(keep=KEEP)
        self.waits: list[tuple[ModelWait, Any]] = []
        self.revision = 0

    def name(self, worker: str) -> str:
        return f"runs/{self.run_id}/workers/{worker}" if worker else ""

    def generation(self, worker: str, stale: int) -> int:
        return max(0, self.model.generations.get(worker, 0) - stale)

    @property
    def exists(self) -> bool:
        return bool(self.model.generations) or self.model.latest is not None

    # --- operations

    @rule(worker=NAMES, lease=st.sampled_from([5.0, 10.0]), resume=st.sampled_from([None, 0, 1]))
    def register(self, worker: str, lease: float, resume: int | None) -> None:
        self._register(worker, lease, resume)

    def _register(self, worker: str, lease: float, resume: int | None) -> None:
        known = self.model.generations.get(worker, 0)
        resumed = None if resume is None or known == 0 else max(1, known - resume)
        expected = self.model.register(worker, ROLES[worker], lease, resumed)
        request = workers_pb2.RegisterWorkerRequest(
            parent=f"runs/{self.run_id}",
            worker_id=worker,
            role=getattr(workers_pb2, f"WORKER_ROLE_{ROLES[worker].upper()}"),
            resume_generation=resumed,
        )
        request.lease_duration.FromSeconds(int(lease))
        reason, response = self.client.call(self.client.workers.RegisterWorker, request)
        assert reason == expected
        if response is not None:
            assert response.worker.generation == self.model.generations[worker]

    @precondition(lambda self: self.exists)
    @rule(worker=NAMES, stale=STALE)
    def renew(self, worker: str, stale: int) -> None:
        generation = self.generation(worker, stale)
        request = workers_pb2.RenewLeaseRequest(name=self.name(worker), generation=generation)
        expected = self.model.renew(worker, generation)
        assert self.client.call(self.client.workers.RenewLease, request)[0] == expected

    @precondition(lambda self: self.exists)
    @rule(worker=NAMES, stale=STALE, state=STATES, expected=st.none() | STATES)
    def set_state(self, worker: str, stale: int, state: str, expected: str | None) -> None:
        generation = self.generation(worker, stale)
        request = workers_pb2.SetWorkerStateRequest(
            name=self.name(worker),
            generation=generation,
            state=getattr(workers_pb2, f"WORKER_STATE_{state}"),
            expected_state=getattr(workers_pb2, f"WORKER_STATE_{expected or 'UNSPECIFIED'}"),
        )
        predicted = self.model.set_state(worker, generation, state, expected)
        assert self.client.call(self.client.workers.SetWorkerState, request)[0] == predicted

    @precondition(lambda self: self.exists)
    @rule(worker=NAMES, stale=STALE)
    def deregister(self, worker: str, stale: int) -> None:
        generation = self.generation(worker, stale)
        request = workers_pb2.DeregisterWorkerRequest(name=self.name(worker), generation=generation)
        predicted = self.model.deregister(worker, generation)
        assert self.client.call(self.client.workers.DeregisterWorker, request)[0] == predicted

    @precondition(lambda self: self.exists)
    @rule(worker=TRAINERS | NAMES, stale=STALE, number=NUMBERS, content=CONTENTS)
    def push(self, worker: str, stale: int, number: int, content: int) -> None:
        self._push(worker, stale, number, content)

    def _push(self, worker: str, stale: int, number: int, content: int) -> None:
        generation = self.generation(worker, stale)
        header = weights_pb2.UploadWeightsHeader(
            name=f"runs/{self.run_id}/weightVersions/{number}",
            worker=self.name(worker),
            generation=generation,
        )
        predicted = self.model.push(worker, generation, number, content)
        assert self.client.push(header, content) == predicted

    @precondition(lambda self: self.exists)
    @rule(step=st.integers(-3, 3), content=CONTENTS)
    def push_around_the_newest(self, step: int, content: int) -> None:
        """By whoever holds the run, so that most of these succeed or fail for their number."""
        live = [n for n, w in self.model.workers.items() if w.role == "trainer" and w.state in LIVE]
        number = max(0, (self.model.latest or 0) + step)
        self._push(live[0] if live else "", 0, number, content)

    @rule(step=st.integers(1, 3), content=CONTENTS)
    def resume_from_an_older_checkpoint(self, step: int, content: int) -> None:
        """A trainer that crashed: its name is taken over, and the numbers go back."""
        self._register("t0", 5.0, None)
        self._push("t0", 0, max(0, (self.model.latest or 0) - step), content)

    @precondition(lambda self: self.exists)
    @rule(worker=TRAINERS, stale=STALE)
    def nothing_new(self, worker: str, stale: int) -> None:
        generation = self.generation(worker, stale)
        request = weights_pb2.PublishWeightVersionRequest(
            name=f"runs/{self.run_id}/weightVersions/0",
            worker=self.name(worker),
            generation=generation,
            nothing_new=True,
        )
        predicted = self.model.nothing_new(worker, generation)
        assert self.client.call(self.client.weights.PublishWeightVersion, request)[0] == predicted

    @rule(seconds=st.sampled_from([1.0, 4.0, 5.5, 11.0]))
    def advance(self, seconds: float) -> None:
        self.model.advance(seconds)
        self.server.advance(seconds)

    @precondition(lambda self: self.exists)
    @rule(after=st.none() | NUMBERS, content=st.none() | CONTENTS, wait=st.booleans())
    def wait(self, after: int | None, content: int | None, wait: bool) -> None:
        request = weights_pb2.WaitWeightVersionRequest(
            parent=f"runs/{self.run_id}",
            after_version=after,
            after_digest="" if content is None or after is None else DIGESTS[content],
        )
        held = ModelWait(after, None if after is None else content, self.model.notices)
        if wait:
            request.max_wait.FromSeconds(600)
            call = self.client.weights.WaitWeightVersion.future(request, timeout=700)
            self.waits.append((held, call))
            return
        request.max_wait.FromSeconds(0)  # a time-out: whatever it says, nothing changes
        response = self.client.weights.WaitWeightVersion(request, timeout=20)
        self._check(self.model.outcome(held) or "TIMED_OUT", response, held)

    @precondition(lambda self: bool(self.waits))
    @rule()
    def cancel_a_wait(self) -> None:
        self.waits.pop(0)[1].cancel()

    # --- what must hold

    @precondition(lambda self: self.exists)
    @invariant()
    def looks_right(self) -> None:
        request = runs_pb2.GetRunRequest(name=f"runs/{self.run_id}")
        run = self.client.runs.GetRun(request, timeout=20).run
        assert run.revision >= self.revision
        self.revision = run.revision
        model = self.model
        seen = {
            worker.name.rpartition("/")[2]: (
                workers_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_"),
                worker.generation,
            )
            for worker in run.workers
        }
        assert seen == {k: (w.state, w.generation) for k, w in model.workers.items()}
        counts = {
            workers_pb2.WorkerState.Name(item.state).removeprefix("WORKER_STATE_"): item.count
            for item in run.explorer_state_counts
        }
        assert counts == model.counts()
        latest = run.latest_weight_version if run.HasField("latest_weight_version") else None
        assert (None if latest is None else latest.version) == model.latest
        if latest is not None and model.latest is not None:
            assert latest.digest == DIGESTS[model.versions[model.latest].content]
        listing = weights_pb2.ListWeightVersionsRequest(parent=f"runs/{self.run_id}")
        versions = self.client.weights.ListWeightVersions(listing, timeout=20).weight_versions
        assert [(item.version, item.digest) for item in versions] == [
            (item.number, DIGESTS[item.content]) for item in model.newest_first()
        ]
        trainer = workers_pb2.WorkerState.Name(run.trainer_state).removeprefix("WORKER_STATE_")
        expected = model.trainer_state() or "UNSPECIFIED"
        assert expected in (trainer, "ANY")

    @invariant()
    def waits_end_when_they_must(self) -> None:
        """Nobody sleeps through what concerns it, and nobody is woken by anything else."""
        open_waits = []
        for held, call in self.waits:
            outcome = self.model.outcome(held)
            if outcome is None:
                assert not call.done(), call.result()
                open_waits.append((held, call))
            else:
                self._check(outcome, finished(call), held)
        self.waits = open_waits

    def _check(self, outcome: str, response: Any, held: ModelWait) -> None:
        said = weights_pb2.WaitOutcome.Name(response.outcome).removeprefix("WAIT_OUTCOME_")
        if outcome != "ANY":
            assert said == outcome
        assert response.reached is (said == "REACHED")
        if response.reached:
            assert response.weight_version.version == self.model.latest
            assert self.model.latest is not None
            went_back = held.after is not None and self.model.latest <= held.after
            assert response.rewound is went_back

    def teardown(self) -> None:
        for _, call in self.waits:
            call.cancel()


@contextmanager
def _machine(directory: Path) -> Iterator[type[Histories]]:
    server = LiveServer(directory, keep=KEEP)
    client = Client(server.address)
    try:
        yield type("LiveHistories", (Histories,), {"server": server, "client": client})
    finally:
        client.close()
        server.stop()


@pytest.mark.timeout(max(300, HISTORIES))
def test_no_history_disagrees_with_the_model(tmp_path: Path) -> None:
    with _machine(tmp_path) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
