"""Who takes part in a run: roles, states, generations.

Decisions return the worker record to store and change nothing themselves; `put` and `remove`
are the only mutators. A process that was paused and replaced is fenced by its generation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from sync_server.domain.applied import Applied
from sync_server.domain.errors import (
    IllegalTransition,
    InvalidArgument,
    InvalidState,
    LeaseExpired,
    RoleMismatch,
    StaleGeneration,
    StateMismatch,
    TrainerActive,
    WorkerNotFound,
)
from sync_server.domain.leases import Instant, Lease, grant


class Role(Enum):
    """What a worker is for."""

    TRAINER = "trainer"
    EXPLORER = "explorer"


class State(Enum):
    """Where a worker is in the synchronization; LOST is set by the server alone."""

    RUNNING = "RUNNING"
    REQUIRE_SYNC = "REQUIRE_SYNC"
    WAITING_SYNC = "WAITING_SYNC"
    STOPPED = "STOPPED"
    LOST = "LOST"


_SYNCING = frozenset({State.RUNNING, State.REQUIRE_SYNC, State.WAITING_SYNC, State.STOPPED})

# What a worker may ask for. LOST is left only by registering again, and entered only by `expire`.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.RUNNING: _SYNCING,
    State.REQUIRE_SYNC: _SYNCING,
    State.WAITING_SYNC: _SYNCING,
    State.STOPPED: frozenset({State.STOPPED, State.RUNNING}),
    State.LOST: frozenset(),
}
GONE = frozenset({State.STOPPED, State.LOST})

# Half of what a 64-bit column holds: whoever resumes leaves room for those who take over later.
MAX_GENERATION = 2**62


@dataclass(frozen=True, slots=True)
class Worker:
    """One registered process. Times are wall seconds, but for the lease's."""

    worker_id: str
    role: Role
    state: State
    generation: int
    lease: Lease
    registered_at: float
    state_changed_at: float
    applied: Applied | None = None

    def in_state(self, state: State, now: Instant) -> Worker:
        """The same worker in another state."""
        return replace(self, state=state, state_changed_at=now.wall)


class WorkerTable:
    """The workers of one run, and the last generation of every name that was ever used."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._generations: dict[str, int] = {}

    # --- reading

    def all(self) -> list[Worker]:
        """Every worker, lost and stopped ones included, by name."""
        return [self._workers[key] for key in sorted(self._workers)]

    def get(self, worker_id: str) -> Worker:
        """One worker. Raises WorkerNotFound."""
        worker = self._workers.get(worker_id)
        if worker is None:
            raise WorkerNotFound(f"no worker {worker_id!r} is registered", worker=worker_id)
        return worker

    def trainer(self) -> Worker | None:
        """The trainer that holds the run, else the one that changed its state last."""
        trainers = [w for w in self._workers.values() if w.role is Role.TRAINER]
        return max(trainers, key=lambda w: (w.state not in GONE, w.state_changed_at), default=None)

    def live_trainer(self, now: Instant) -> Worker | None:
        """The trainer that holds the run: registered, not gone, lease not over."""
        holders = (
            w
            for w in self._workers.values()
            if w.role is Role.TRAINER and w.state not in GONE and not w.lease.expired(now)
        )
        return next(holders, None)

    def explorer_counts(self) -> dict[State, int]:
        """How many explorers are in each state; only states that occur."""
        counts: dict[State, int] = {}
        for worker in self._workers.values():
            if worker.role is Role.EXPLORER:
                counts[worker.state] = counts.get(worker.state, 0) + 1
        return counts

    def generations(self) -> dict[str, int]:
        """The last generation of every name, of deregistered ones too."""
        return dict(self._generations)

    def next_expiry(self) -> float | None:
        """When the next lease runs out (monotonic seconds); None: none can."""
        return min(
            (w.lease.expires_at for w in self._workers.values() if w.state not in GONE),
            default=None,
        )

    # --- deciding

    def authorize(self, worker_id: str, generation: int, now: Instant) -> Worker:
        """The worker, if `generation` may write now.

        Raises WorkerNotFound (register again), StaleGeneration (never retry: somebody else has
        the name), LeaseExpired (register again).
        """
        worker = self.get(worker_id)
        if generation != worker.generation:
            raise StaleGeneration(
                f"worker {worker_id!r} is at generation {worker.generation}, "
                f"and this write comes from generation {generation}",
                worker=worker_id,
                generation=worker.generation,
            )
        if worker.state is State.LOST or worker.lease.expired(now):
            raise LeaseExpired(f"the lease of worker {worker_id!r} ran out", worker=worker_id)
        return worker

    def authorize_trainer(self, worker_id: str, generation: int, now: Instant) -> Worker:
        """Like `authorize`, for writes that only the trainer that holds the run may make.

        Raises RoleMismatch and TrainerActive besides.
        """
        worker = self.authorize(worker_id, generation, now)
        if worker.role is not Role.TRAINER:
            raise RoleMismatch(f"worker {worker_id!r} is no trainer", worker=worker_id)
        self._refuse_second_trainer(worker_id, now)
        return worker

    def authorize_unleased(self, now: Instant) -> None:
        """A write without a lease: TrainerActive while a live trainer holds the run."""
        self._refuse_second_trainer("", now)

    def register(
        self,
        worker_id: str,
        role: Role,
        lease_seconds: float | None,
        now: Instant,
        resume_generation: int | None = None,
    ) -> Worker:
        """The record of a new holder of `worker_id`, in state RUNNING.

        `resume_generation` is for the process that held the name before: it keeps its generation
        and what it had applied, unless somebody took the name over (StaleGeneration). Raises
        InvalidDuration, InvalidArgument for a generation that no server gave out, and
        TrainerActive while a trainer of another name is live (retry after its lease).
        """
        lease = grant(lease_seconds, now)
        if resume_generation is not None and not 1 <= resume_generation <= MAX_GENERATION:
            raise InvalidArgument(
                f"resume_generation {resume_generation}: 1 to 2**62 is allowed",
                field="resume_generation",
            )
        known = self._generations.get(worker_id, 0)
        if resume_generation is not None and resume_generation < known:
            raise StaleGeneration(
                f"worker {worker_id!r} was taken over: generation {known}, not {resume_generation}",
                worker=worker_id,
                generation=known,
            )
        if role is Role.TRAINER:
            self._refuse_second_trainer(worker_id, now)
        previous = self._workers.get(worker_id)
        resumes = resume_generation is not None
        return Worker(
            worker_id=worker_id,
            role=role,
            state=State.RUNNING,
            generation=resume_generation if resume_generation is not None else known + 1,
            lease=lease,
            registered_at=now.wall,
            state_changed_at=now.wall,
            applied=previous.applied if resumes and previous is not None else None,
        )

    def renew(self, worker_id: str, generation: int, now: Instant) -> Worker:
        """The worker with its lease renewed. Raises what `authorize` raises."""
        worker = self.authorize(worker_id, generation, now)
        return replace(worker, lease=worker.lease.renewed(now))

    def set_state(
        self,
        worker_id: str,
        generation: int,
        state: State,
        now: Instant,
        expected: State | None = None,
    ) -> Worker | None:
        """The worker in its new state, or None where it is in that state already.

        Raises what `authorize` raises, InvalidState for LOST, StateMismatch where the present
        state is not `expected` (retry after reading it), IllegalTransition, and TrainerActive for
        a stopped trainer that would run beside another one.
        """
        if state is State.LOST:
            raise InvalidState("LOST is set by the server alone", state=state.value)
        worker = self.authorize(worker_id, generation, now)
        if expected is not None and worker.state is not expected:
            raise StateMismatch(
                f"worker {worker_id!r} is {worker.state.value}, not {expected.value}",
                state=worker.state.value,
            )
        if state not in TRANSITIONS[worker.state]:
            raise IllegalTransition(
                f"worker {worker_id!r} can't go from {worker.state.value} to {state.value}",
                state=worker.state.value,
            )
        if worker.role is Role.TRAINER and worker.state in GONE and state not in GONE:
            self._refuse_second_trainer(worker_id, now)
        return None if state is worker.state else worker.in_state(state, now)

    def expire(self, now: Instant) -> list[Worker]:
        """The workers whose lease has run out, as LOST. A stopped worker stays stopped."""
        return [
            worker.in_state(State.LOST, now)
            for worker in self.all()
            if worker.state not in GONE and worker.lease.expired(now)
        ]

    # --- changing

    def put(self, worker: Worker) -> None:
        """Stores a record that a decision returned.

        Between the decision and now, while the change was being stored, a heartbeat may have
        renewed the lease: the record may not take that back.
        """
        known, lease = self._workers.get(worker.worker_id, worker), worker.lease
        same = known.generation == worker.generation and known.lease.duration == lease.duration
        if same and known.lease.expires_at > lease.expires_at:
            worker = replace(worker, lease=known.lease)
        self._workers[worker.worker_id] = worker
        self.remember_generation(worker.worker_id, worker.generation)

    def remove(self, worker_id: str) -> None:
        """Forgets a worker, but not its generation."""
        self._workers.pop(worker_id, None)

    def remember_generation(self, worker_id: str, generation: int) -> None:
        """Keeps the highest generation of a name."""
        self._generations[worker_id] = max(generation, self._generations.get(worker_id, 0))

    def restore(self, workers: Iterable[Worker]) -> None:
        """Puts records back after a restart."""
        for worker in workers:
            self.put(worker)

    def _refuse_second_trainer(self, worker_id: str, now: Instant) -> None:
        trainer = self.live_trainer(now)
        if trainer is not None and trainer.worker_id != worker_id:
            left = trainer.lease.expires_at - now.monotonic
            raise TrainerActive(
                f"trainer {trainer.worker_id!r} holds the run (state {trainer.state.value}, "
                f"lease for another {left:.1f} s)",
                worker=trainer.worker_id,
                generation=trainer.generation,
            )
