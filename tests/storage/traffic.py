"""Random but legal histories of a run, for the contract suite of the state stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from sync_server.domain import commands
from sync_server.domain.configs import Value
from sync_server.domain.errors import DomainError
from sync_server.domain.leases import Instant, grant
from sync_server.domain.runs import Change, Event, Run, RunCreated, WorkerChanged
from sync_server.domain.versions import Pusher, Version
from sync_server.domain.workers import Role, State
from sync_server.storage.base import Batch
from tests.storage.records import WALL


@dataclass(frozen=True)
class Step:
    """One thing that somebody tries; it may be refused, and then it changes nothing."""

    kind: str
    who: str
    number: int
    digest: str
    state: State
    seconds: float
    ttl: float | None
    flush: bool  # whether what was gathered is stored now


KINDS = ("register", "state", "report", "leave", "expire", "push", "push", "push", "pin", "unpin")
steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from([*KINDS, "delete", "lose", "nothing new", "progress", "config"]),
        who=st.sampled_from(["t", "t", "explorer 0", "探索者", "O'Brien"]),
        number=st.integers(0, 6) | st.just(2**63 - 1),
        digest=st.sampled_from("ab"),
        state=st.sampled_from(list(State)[:4]),
        seconds=st.sampled_from([0.0, 0.1, 1.5, 30.0]),
        ttl=st.none() | st.floats(0, 1e6),
        flush=st.booleans(),
    ),
    max_size=30,
)


class History:
    """A run that is driven by steps; gives the batches that a coordinator would store."""

    def __init__(self, run_id: str) -> None:
        self.run = Run(run_id, created_at=WALL)
        self.moment = 0.0
        self.blobs = 0
        self.gathered: list[Event] = []
        self._record([RunCreated()])

    def now(self) -> Instant:
        """The present moment."""
        return Instant(self.moment, WALL + self.moment)

    def take(self, step: Step) -> None:
        """Tries one step."""
        self.moment += step.seconds
        try:
            self._record(self._decide(step))
        except DomainError:
            pass  # refused: that is legal, and no change

    def batch(self) -> Batch:
        """What was gathered since the last call."""
        events, self.gathered = self.gathered, []
        book = self.run.versions
        return Batch(self.run.run_id, events, book.current, book.superseded_max)

    def restored_by(self, other: Run, now: Instant) -> bool:
        """Whether `other` is this run as a store should give it back at `now`."""
        workers = [
            replace(worker, lease=grant(worker.lease.duration, now))
            for worker in self.run.workers.all()
        ]
        mine, theirs = self.run, other
        assert theirs.workers.all() == workers
        assert theirs.workers.generations() == mine.workers.generations()
        assert theirs.versions.all() == mine.versions.all()
        assert theirs.versions.latest() == mine.versions.latest()
        assert theirs.versions.superseded_max == mine.versions.superseded_max
        assert theirs.progress.all() == mine.progress.all()
        assert theirs.config == mine.config
        assert (theirs.run_id, theirs.created_at) == (mine.run_id, mine.created_at)
        return True

    def _record(self, changes: Sequence[Change]) -> None:
        for event in self.run.number(changes, self.now()):
            self.run.apply(event)
            self.gathered.append(event)

    def _decide(self, step: Step) -> Sequence[Change]:
        run, now, who = self.run, self.now(), step.who
        generation = run.workers.generations().get(who, 1)
        pusher = Pusher("t", run.workers.generations().get("t", 0)) if who == "t" else Pusher()
        match step.kind:
            case "register":
                return commands.register(
                    run,
                    now,
                    worker_id=who,
                    role=Role.TRAINER if who == "t" else Role.EXPLORER,
                    lease_seconds=2.5,
                    resume_generation=generation if step.digest == "a" else None,
                )[0]
            case "state":
                return commands.set_state(
                    run,
                    now,
                    worker_id=who,
                    generation=generation,
                    state=step.state,
                    expected=None,
                )[0]
            case "report":
                return commands.report_applied(
                    run,
                    now,
                    worker_id=who,
                    generation=generation,
                    version=step.number,
                    digest=step.digest,
                )[0]
            case "leave":
                return commands.deregister(run, now, worker_id=who, generation=generation)[0]
            case "expire":
                return [WorkerChanged(worker) for worker in run.workers.expire(now)]
            case "push":
                return commands.commit(run, now, version=self._version(step, pusher), keep=2)[0]
            case "pin":
                return commands.pin(run, now, number=step.number, owner=who, ttl=step.ttl)[0]
            case "unpin":
                return commands.unpin(run, now, number=step.number, owner=who, keep=2)[0]
            case "delete":
                return commands.delete(run, now, number=step.number)[0]
            case "lose":
                blob_id = run.versions.get(step.number).blob_id
                return commands.lose_blob(run, now, number=step.number, blob_id=blob_id)[0]
            case "progress":
                return commands.save_progress(
                    run,
                    now,
                    writer=Pusher(),
                    record_id=who,
                    payload=bytes([step.number % 256, 0, 255]) * step.number.bit_length(),
                    etag="",
                )[0]
            case "config":
                config: dict[str, Value] = {
                    "number": step.number,
                    "deep": [{"digest": step.digest}, None, 0.1, True],
                }
                return commands.check_config(
                    run, now, worker_id=who, config=config, accept_changes=True
                )[0]
            case _:
                return commands.nothing_new(run, now, pusher=pusher)[0]

    def _version(self, step: Step, pusher: Pusher) -> Version:
        self.blobs += 1
        return Version(
            number=step.number,
            digest=step.digest,
            size_bytes=10 + self.blobs,
            tensor_count=self.blobs,
            blob_id=f"{self.run.run_id}/{step.number}-{self.blobs:016x}.safetensors",
            tensor_digests=bytes(range(self.blobs % 9)) * 8,
            pusher=pusher,
            committed_at=0.0,
            revision=0,
        )
