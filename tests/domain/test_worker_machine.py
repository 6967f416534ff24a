"""Workers, driven at random against a naive model that was written from the design alone."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sync_server.domain import commands
from sync_server.domain.errors import DomainError
from sync_server.domain.leases import Instant
from sync_server.domain.runs import Event, Run, WorkerChanged
from sync_server.domain.versions import Pusher
from sync_server.domain.workers import Role, State
from tests.domain.builders import WALL, drive

NAMES = {"t0": Role.TRAINER, "t1": Role.TRAINER, "e0": Role.EXPLORER, "e1": Role.EXPLORER}
names = st.sampled_from([*NAMES, "x"])  # x comes as either
leases = st.sampled_from([1.0, 10.0, 60.0])
offsets = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])  # from the generation that holds the name
states = st.sampled_from(State)
LIVE = (State.RUNNING, State.REQUIRE_SYNC, State.WAITING_SYNC)


@dataclass
class Known:
    """What the model knows of one registered worker."""

    role: Role
    state: State
    generation: int
    duration: float
    expires_at: float
    applied: int | None = None


class WorkersMachine(RuleBasedStateMachine):
    """Two trainers that fight for the run, explorers, a clock, and a wall clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run("r", created_at=WALL)
        self.now = 0.0
        self.wall = WALL
        self.known: dict[str, Known] = {}
        self.generations: dict[str, int] = {}
        self.changes = 0

    # --- the model

    def held_by_another(self, name: str) -> bool:
        """Whether a live trainer of another name holds the run."""
        return any(
            other != name
            and known.role is Role.TRAINER
            and known.state in LIVE
            and self.now <= known.expires_at
            for other, known in self.known.items()
        )

    def refusal(self, name: str, generation: int) -> str | None:
        """Why that generation may not write, or None."""
        known = self.known.get(name)
        if known is None:
            return "WorkerNotFound"
        if generation != known.generation:
            return "StaleGeneration"
        if known.state is State.LOST or self.now > known.expires_at:
            return "LeaseExpired"
        return None

    def generation(self, name: str, offset: int) -> int:
        """The name's last generation, or one beside it."""
        return self.generations.get(name, 1) + offset

    def instant(self) -> Instant:
        """The moment on both clocks."""
        return Instant(self.now, self.wall)

    def attempt(self, refused: str | None, changes: int, command: object, **asked: object) -> bool:
        """Runs a command that must be refused for that reason, or make so many changes."""
        assert callable(command)
        before = (self.run.revision, self.run.workers.all(), self.run.workers.generations())
        events: list[Event] = []
        found = None
        try:
            events, _ = drive(self.run, self.instant(), command, **asked)
        except DomainError as error:
            found = type(error).__name__
        assert found == refused
        if refused is not None:
            after = (self.run.revision, self.run.workers.all(), self.run.workers.generations())
            assert after == before
            return False
        assert len(events) == changes
        self.changes += changes
        return True

    # --- time

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0, 61.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def wall_clock_jumps(self, seconds: float) -> None:
        self.wall += seconds

    @rule()
    def leases_run_out(self) -> None:
        lost = {
            name
            for name, known in self.known.items()
            if known.state in LIVE and self.now > known.expires_at
        }
        found = self.run.workers.expire(self.instant())
        assert {worker.worker_id for worker in found} == lost
        for worker in found:
            (event,) = self.run.number([WorkerChanged(worker)], self.instant())
            self.run.apply(event)
            self.changes += 1
            self.known[worker.worker_id].state = State.LOST

    # --- what workers do

    @rule(
        name=names,
        role=st.sampled_from(Role),
        lease=leases,
        resume=st.none() | offsets,
    )
    def register(self, name: str, role: Role, lease: float, resume: int | None) -> None:
        role = NAMES.get(name, role)
        generation = None if resume is None else self.generation(name, resume)
        refused = None
        if generation is not None and generation < 1:
            refused = "InvalidArgument"
        elif generation is not None and generation < self.generations.get(name, 0):
            refused = "StaleGeneration"
        elif role is Role.TRAINER and self.held_by_another(name):
            refused = "TrainerActive"
        if self.attempt(
            refused,
            1,
            commands.register,
            worker_id=name,
            role=role,
            lease_seconds=lease,
            resume_generation=generation,
        ):
            former = self.known.get(name)
            kept = former.applied if former is not None and generation is not None else None
            if generation is None:
                generation = self.generations.get(name, 0) + 1
            self.generations[name] = generation
            self.known[name] = Known(role, State.RUNNING, generation, lease, self.now + lease, kept)

    @rule(name=names, offset=offsets)
    def renew(self, name: str, offset: int) -> None:
        generation = self.generation(name, offset)
        found = None
        try:
            self.run.workers.put(self.run.workers.renew(name, generation, self.instant()))
        except DomainError as error:
            found = type(error).__name__
        assert found == self.refusal(name, generation)
        if found is None:
            self.known[name].expires_at = self.now + self.known[name].duration

    @rule(name=names, offset=offsets, state=states, expected=st.none() | states)
    def set_state(self, name: str, offset: int, state: State, expected: State | None) -> None:
        generation = self.generation(name, offset)
        refused = self.refusal(name, generation)
        before = self.known[name].state if name in self.known else None
        if state is State.LOST:
            refused = "InvalidState"
        elif refused is None and expected is not None and expected is not before:
            refused = "StateMismatch"
        elif refused is None and before is State.STOPPED:
            if state in (State.REQUIRE_SYNC, State.WAITING_SYNC):
                refused = "IllegalTransition"
            elif state is State.RUNNING and self.known[name].role is Role.TRAINER:
                refused = "TrainerActive" if self.held_by_another(name) else None
        if self.attempt(
            refused,
            0 if state is before else 1,
            commands.set_state,
            worker_id=name,
            generation=generation,
            state=state,
            expected=expected,
        ):
            self.known[name].state = state

    @rule(name=names, offset=offsets, version=st.integers(0, 3))
    def report(self, name: str, offset: int, version: int) -> None:
        generation = self.generation(name, offset)
        if self.attempt(
            self.refusal(name, generation),
            1,
            commands.report_applied,
            worker_id=name,
            generation=generation,
            version=version,
            digest="a",
        ):
            self.known[name].applied = version

    @rule(name=names, offset=offsets)
    def leave(self, name: str, offset: int) -> None:
        generation = self.generation(name, offset)
        known = self.known.get(name)
        mine = known is not None and known.generation == generation
        fenced = known is not None and not mine and known.state is not State.LOST
        refused = "StaleGeneration" if fenced else None
        if (
            self.attempt(
                refused, int(mine), commands.deregister, worker_id=name, generation=generation
            )
            and mine
        ):
            del self.known[name]

    @rule(name=names | st.just(""), offset=offsets)
    def say_nothing_new(self, name: str, offset: int) -> None:
        generation = self.generation(name, offset) if name else 0
        refused = self.refusal(name, generation) if name else None
        if refused is None and name and self.known[name].role is not Role.TRAINER:
            refused = "RoleMismatch"
        elif refused is None and self.held_by_another(name):
            refused = "TrainerActive"
        self.attempt(refused, 1, commands.nothing_new, pusher=Pusher(name, generation))

    # --- what must hold

    @invariant()
    def the_table_is_the_model(self) -> None:
        found = {
            worker.worker_id: Known(
                worker.role,
                worker.state,
                worker.generation,
                worker.lease.duration,
                worker.lease.expires_at,
                None if worker.applied is None else worker.applied.version,
            )
            for worker in self.run.workers.all()
        }
        assert found == self.known

    @invariant()
    def generations_never_fall(self) -> None:
        assert self.run.workers.generations() == self.generations

    @invariant()
    def counts_are_sums(self) -> None:
        explorers = [k.state for k in self.known.values() if k.role is Role.EXPLORER]
        counts = self.run.workers.explorer_counts()
        assert counts == {state: explorers.count(state) for state in set(explorers)}

    @invariant()
    def at_most_one_trainer_is_live(self) -> None:
        now = self.instant()
        live = [
            worker
            for worker in self.run.workers.all()
            if worker.role is Role.TRAINER
            and worker.state in LIVE
            and not worker.lease.expired(now)
        ]
        assert len(live) <= 1
        assert self.run.workers.live_trainer(now) == (live[0] if live else None)

    @invariant()
    def every_change_has_a_revision(self) -> None:
        assert self.run.revision == self.changes


TestWorkersMachine = WorkersMachine.TestCase
TestWorkersMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
