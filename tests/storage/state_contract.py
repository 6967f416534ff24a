"""What every StateStore does. A kind of store supplies `open_store` and is held to all of it."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from sync_server.domain.applied import Applied
from sync_server.domain.configs import Value
from sync_server.domain.leases import Lease
from sync_server.domain.progress import Progress
from sync_server.domain.runs import (
    Change,
    ConfigSet,
    NothingNew,
    ProgressSaved,
    Run,
    RunCreated,
    VersionChanged,
    VersionCommitted,
    VersionRemoved,
    WorkerChanged,
    WorkerRemoved,
)
from sync_server.domain.versions import Cause, Pin, Pusher, Reference, Source
from sync_server.domain.workers import Role, State
from sync_server.storage.base import Batch, StateStore, StorageError, StoredRun
from tests.storage.records import NOW, VERSION, WALL, WORKER, batch
from tests.storage.traffic import History, Step, steps


class StateStoreContract(ABC):
    """Tests of one kind of store."""

    @abstractmethod
    def open_store(self, directory: Path) -> StateStore:
        """The store in `directory`; called again on the same directory by some tests."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> StateStore:
        """An empty store."""
        return self.open_store(tmp_path)

    def only_run(self, store: StateStore) -> StoredRun:
        """The run, of a store that has one."""
        (stored,) = store.load()
        return stored

    def restored(self, store: StateStore) -> Run:
        """The run as a server would have it after a restart."""
        stored = self.only_run(store)
        return stored.restore(stored.revision, NOW)

    def test_a_new_store_is_empty(self, store: StateStore) -> None:
        assert store.load() == []
        store.apply([])
        assert store.load() == []

    # The suite is inherited on purpose: each kind of store runs it by itself.
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
    )
    @given(steps, steps)
    def test_what_was_applied_is_loaded(self, first: list[Step], second: list[Step]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            store = self.open_store(Path(directory))
            histories = [History("one"), History("two")]
            waiting: list[Batch] = []
            for history, taken in zip(histories, (first, second), strict=True):
                for step in taken:
                    history.take(step)
                    if step.flush:  # sometimes several batches in one transaction
                        waiting.append(history.batch())
                        if step.seconds:
                            store.apply(waiting)
                            waiting.clear()
            store.apply([*waiting, *[history.batch() for history in histories]])
            stored = {run.run_id: run for run in store.load()}
            assert set(stored) == {"one", "two"}
            for history in histories:
                found = stored[history.run.run_id]
                assert found.revision == history.run.revision
                assert history.restored_by(found.restore(found.revision, NOW), NOW)
            store.close()

    def test_every_field_of_a_worker_comes_back(self, store: StateStore) -> None:
        workers = [
            replace(
                WORKER,
                worker_id=f"w{index} ünï",
                role=role,
                state=state,
                generation=2**62 + index,
                lease=Lease(1.25 + index, 77.0),
                registered_at=WALL + 0.125,
                state_changed_at=WALL + 0.0625,
                applied=applied,
            )
            for index, (role, state, applied) in enumerate(
                (role, state, applied)
                for role in Role
                for state in State
                for applied in (
                    None,
                    Applied(2**63 - 1, "xxh3-128:00", WALL + 0.5, verified=True),
                    Applied(0, "", WALL, verified=False),
                )
            )
        ]
        store.apply([batch(RunCreated(), *[WorkerChanged(worker) for worker in workers])])
        stored = {worker.worker_id: worker for worker in self.only_run(store).workers}
        for worker in workers:
            found = stored[worker.worker_id]
            assert replace(found, lease=worker.lease) == worker
            assert found.lease.duration == worker.lease.duration

    def test_every_field_of_a_version_comes_back(self, store: StateStore) -> None:
        pins = (Pin("abe", WALL + 0.5), Pin("zoë 評価", None))
        versions = [
            VERSION,
            replace(VERSION, number=2**63 - 1, blob_id="b", pusher=Pusher(), pins=pins),
            replace(VERSION, number=0, blob_id="c", size_bytes=2**40, tensor_digests=b""),
        ]
        store.apply([batch(RunCreated(), *[VersionCommitted(v) for v in versions], current=0)])
        found = {version.number: version for version in self.only_run(store).versions}
        assert found == {version.number: version for version in versions}

    def test_a_number_that_is_used_again_keeps_the_new_bytes(self, store: StateStore) -> None:
        """The removal of the old blob comes after the commit of the new one."""
        pinned = replace(VERSION, pins=(Pin("eval"),))
        store.apply([batch(RunCreated(), VersionCommitted(pinned), current=7)])
        new = replace(VERSION, digest="new", blob_id="new", revision=3)
        gone = VersionRemoved(7, "d", VERSION.blob_id, Cause.SUPERSEDED)
        store.apply([batch(VersionCommitted(new), gone, after=2, current=7, superseded_max=7)])
        stored = self.only_run(store)
        assert stored.versions == [new]
        assert (stored.current, stored.superseded_max) == (7, 7)

    def test_a_version_that_was_removed_takes_its_pins_along(self, store: StateStore) -> None:
        pinned = replace(VERSION, pins=(Pin("eval"),))
        gone = VersionRemoved(7, "d", VERSION.blob_id, Cause.DELETED)
        store.apply([batch(RunCreated(), VersionCommitted(pinned), gone)])
        assert self.only_run(store).versions == []
        store.apply([batch(VersionCommitted(VERSION), after=3, current=7)])
        assert self.only_run(store).versions == [VERSION]

    def test_pins_are_replaced_and_taken_back(self, store: StateStore) -> None:
        store.apply([batch(RunCreated(), VersionCommitted(VERSION), current=7)])
        for revision, pins in enumerate([(Pin("a"), Pin("b")), (Pin("b", WALL),), ()], start=2):
            changed = replace(VERSION, pins=pins)
            store.apply([batch(VersionChanged(changed), after=revision, current=7)])
            assert self.only_run(store).versions == [changed]

    def test_generations_outlive_the_worker(self, store: StateStore) -> None:
        taken_over = replace(WORKER, generation=5)
        store.apply([batch(RunCreated(), WorkerChanged(taken_over), WorkerRemoved("w"))])
        assert self.only_run(store).workers == []
        run = self.restored(store)
        assert run.workers.generations() == {"w": 5}
        assert run.workers.register("w", Role.EXPLORER, None, NOW).generation == 6

    def test_progress_is_replaced_whole(self, store: StateStore) -> None:
        first = Progress("trainer", b"\x00\xff" * 1000, "1", WALL)
        other = Progress("stage ünï", b"", "2", WALL + 0.5)
        store.apply([batch(RunCreated(), ProgressSaved(first), ProgressSaved(other))])
        second = Progress("trainer", b"new", "3", WALL + 1)
        store.apply([batch(ProgressSaved(second), after=3)])
        found = sorted(self.only_run(store).progress, key=lambda record: record.etag)
        assert found == [other, second]

    def test_the_configuration_comes_back_as_it_was(self, store: StateStore) -> None:
        store.apply([batch(RunCreated())])
        assert self.only_run(store).config is None
        config: dict[str, Value] = {
            "lr": 1e-6,
            "steps": 2**40,
            "name": "ünï 評価",
            "flags": [True, False, None, {"deep": {}}],
        }
        store.apply([batch(ConfigSet("t", config), after=1)])
        stored = self.only_run(store).config
        assert stored == config
        assert isinstance(stored, dict)
        stored["lr"] = 1.0
        assert self.only_run(store).config == config

    def test_the_revision_is_that_of_the_last_event(self, store: StateStore) -> None:
        store.apply([batch(RunCreated())])
        store.apply([batch(NothingNew("t"), NothingNew("t"), after=1)])
        assert self.only_run(store).revision == 3

    def test_revisions_may_have_gaps(self, store: StateStore) -> None:
        """A restart skips those that may have been given out without having been stored."""
        store.apply([batch(RunCreated())])
        store.apply([batch(WorkerChanged(WORKER), after=100_001)])
        assert self.only_run(store).revision == 100_002
        assert len(self.only_run(store).workers) == 1

    def test_the_loss_of_the_served_version_is_remembered(self, store: StateStore) -> None:
        store.apply([batch(RunCreated(), VersionCommitted(VERSION), current=7)])
        gone = VersionRemoved(7, "d", VERSION.blob_id, Cause.DAMAGED)
        store.apply([batch(gone, after=2, current=None, superseded_max=7)])
        run = self.restored(store)
        assert run.versions.latest() is None
        assert run.versions.superseded_max == 7

    def test_batches_are_applied_in_order(self, store: StateStore) -> None:
        states = list(State)
        batches = [batch(RunCreated())]
        batches += [
            batch(WorkerChanged(replace(WORKER, state=states[index % 5])), after=index + 1)
            for index in range(23)
        ]
        store.apply(batches)
        (worker,) = self.only_run(store).workers
        assert worker.state is states[22 % 5]

    def test_runs_do_not_mix(self, store: StateStore) -> None:
        store.apply(
            [
                batch(RunCreated(), WorkerChanged(WORKER), run_id="a"),
                batch(RunCreated(), VersionCommitted(VERSION), run_id="b", current=7),
            ]
        )
        removed: list[Change] = [
            WorkerRemoved("w"),
            VersionRemoved(7, "d", VERSION.blob_id, Cause.DELETED),
        ]
        store.apply([batch(RunCreated(), *removed, run_id="c")])
        stored = {run.run_id: run for run in store.load()}
        assert [len(stored[name].workers) for name in "abc"] == [1, 0, 0]
        assert [len(stored[name].versions) for name in "abc"] == [0, 1, 0]

    def test_what_is_given_in_and_out_is_copied(self, store: StateStore) -> None:
        given = batch(RunCreated(), WorkerChanged(WORKER), VersionCommitted(VERSION), current=7)
        store.apply([given])
        assert isinstance(given.events, list)
        given.events.clear()
        stored = self.only_run(store)
        stored.workers.clear()
        stored.versions.clear()
        stored.generations["w"] = 99
        again = self.only_run(store)
        assert (len(again.workers), len(again.versions)) == (1, 1)
        assert again.generations == {"w": 1}

    def test_a_closed_store_stores_nothing(self, store: StateStore) -> None:
        store.close()
        store.close()
        with pytest.raises(StorageError):
            store.apply([batch(RunCreated())])

    def test_a_version_that_is_elsewhere_comes_back_as_it_was(self, store: StateStore) -> None:
        versions = [
            replace(VERSION, number=number, blob_id=f"b{number}", reference=Reference(source, text))
            for number, (source, text) in enumerate(
                [(Source.CHECKPOINT, "/a"), (Source.EXTERNAL, ""), (Source.RENDEZVOUS, "g")]
            )
        ]
        store.apply([batch(RunCreated(), *map(VersionCommitted, versions))])
        assert self.only_run(store).versions == versions
