"""A simple model of what a run should do, written without a look at the domain.

It keeps plain dictionaries and predicts, for each operation, either a reason code or what the
run looks like afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OK = "OK"
LIVE = ("RUNNING", "REQUIRE_SYNC", "WAITING_SYNC")


@dataclass
class ModelWorker:
    """A registered name."""

    role: str
    state: str
    generation: int
    lease: float
    expires: float


@dataclass
class ModelVersion:
    """A version that can be pulled."""

    number: int
    content: int
    pushed_by: tuple[str, int]
    order: int


@dataclass
class ModelWait:
    """A wait that was begun: what it holds, and how many notices there had been."""

    after: int | None
    content: int | None
    notices: int


@dataclass
class Model:
    """One run."""

    keep: int
    now: float = 0.0
    workers: dict[str, ModelWorker] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    latest: int | None = None
    gone_up_to: int | None = None
    notices: int = 0
    commits: int = 0
    last_trainer: str | None = None

    # --- time

    def advance(self, seconds: float) -> None:
        """Time passes; leases run out."""
        self.now += seconds
        for worker in self.workers.values():
            if worker.state in LIVE and self.now > worker.expires:
                worker.state = "LOST"

    # --- workers

    def _other_live_trainer(self, name: str) -> bool:
        return any(
            other != name and worker.role == "trainer" and worker.state in LIVE
            for other, worker in self.workers.items()
        )

    def register(self, name: str, role: str, lease: float, resume: int | None) -> str:
        """Joins, takes over, or resumes."""
        known = self.generations.get(name, 0)
        if resume is not None and resume < known:
            return "STALE_GENERATION"
        if role == "trainer" and self._other_live_trainer(name):
            return "TRAINER_ACTIVE"
        generation = known + 1 if resume is None else resume
        self.workers[name] = ModelWorker(role, "RUNNING", generation, lease, self.now + lease)
        self.generations[name] = generation
        if role == "trainer":
            self.last_trainer = name
        return OK

    def _refusal(self, name: str, generation: int) -> str | None:
        worker = self.workers.get(name)
        if worker is None:
            return "WORKER_NOT_FOUND"
        if worker.generation != generation:
            return "STALE_GENERATION"
        if worker.state == "LOST" or self.now > worker.expires:
            return "LEASE_EXPIRED"
        return None

    def renew(self, name: str, generation: int) -> str:
        """A heartbeat."""
        refusal = self._refusal(name, generation)
        if refusal is None:
            worker = self.workers[name]
            worker.expires = self.now + worker.lease
        return refusal or OK

    def set_state(self, name: str, generation: int, state: str, expected: str | None) -> str:
        """Another state."""
        if state == "LOST":
            return "INVALID_STATE"
        refusal = self._refusal(name, generation)
        if refusal is not None:
            return refusal
        worker = self.workers[name]
        if expected is not None and worker.state != expected:
            return "STATE_MISMATCH"
        if worker.state == "STOPPED" and state not in ("STOPPED", "RUNNING"):
            return "ILLEGAL_TRANSITION"
        if worker.state == "STOPPED" and state == "RUNNING" and worker.role == "trainer":
            if self._other_live_trainer(name):
                return "TRAINER_ACTIVE"
            self.last_trainer = name
        if worker.state != state and worker.role == "trainer":
            self.last_trainer = name
        worker.state = state
        return OK

    def deregister(self, name: str, generation: int) -> str:
        """Leaves."""
        worker = self.workers.get(name)
        if worker is None:
            return OK
        if worker.generation == generation:  # with or without a lease: it has nothing to lose
            del self.workers[name]
            return OK
        return OK if worker.state == "LOST" else self._refusal(name, generation) or OK

    # --- versions

    def push(self, name: str, generation: int, number: int, content: int) -> str:
        """A push; `name` is empty without a lease."""
        refusal = self._push_refusal(name, generation)
        if refusal is not None:
            return refusal
        pusher = (name, generation)
        if self.latest is None:
            return self._commit(number, content, pusher)
        newest = self.versions[self.latest]
        same_lineage = not name or pusher == newest.pushed_by
        there = self.versions.get(number)
        if there is not None and there.content == content:
            if number < self.latest and not same_lineage:
                return self._commit(number, content, pusher)
            return OK
        if number > self.latest or not same_lineage:
            return self._commit(number, content, pusher)
        return "VERSION_EXISTS" if there is not None else "VERSION_NOT_NEWER"

    def _push_refusal(self, name: str, generation: int) -> str | None:
        if not name:
            return "TRAINER_ACTIVE" if self._other_live_trainer("") else None
        refusal = self._refusal(name, generation)
        if refusal is None and self.workers[name].role != "trainer":
            return "ROLE_MISMATCH"
        if refusal is None and self._other_live_trainer(name):
            return "TRAINER_ACTIVE"
        return refusal

    def _commit(self, number: int, content: int, pusher: tuple[str, int]) -> str:
        if self.latest is not None and number <= self.latest:
            self.gone_up_to = max(self.latest, self.gone_up_to or 0)
        self.commits += 1
        for other in [n for n in self.versions if n >= number]:
            del self.versions[other]
        self.versions[number] = ModelVersion(number, content, pusher, self.commits)
        self.latest = number
        kept = self.newest_first()[: self.keep]
        self.versions = {version.number: version for version in kept}
        return OK

    def newest_first(self) -> list[ModelVersion]:
        """What can be pulled, the last commit first."""
        return sorted(self.versions.values(), key=lambda v: -v.order)

    def nothing_new(self, name: str, generation: int) -> str:
        """The trainer's notice."""
        refusal = self._push_refusal(name, generation)
        if refusal is None:
            self.notices += 1
        return refusal or OK

    # --- waiting and looking

    def trainer_state(self) -> str | None:
        """Of the live trainer, else of the one whose state changed last."""
        live = [w.state for w in self.workers.values() if w.role == "trainer" and w.state in LIVE]
        if live:
            return live[0]
        states = [w.state for w in self.workers.values() if w.role == "trainer"]
        return states[0] if len(states) == 1 else None if not states else "ANY"

    def outcome(self, wait: ModelWait) -> str | None:
        """How a wait is over, or None."""
        if self.latest is not None:
            newest = self.versions[self.latest]
            held = wait.after
            if held is None or held < newest.number:
                return "REACHED"
            if held == newest.number:
                if wait.content is not None and wait.content != newest.content:
                    return "REACHED"
            elif self.gone_up_to is not None and held <= self.gone_up_to:
                return "REACHED"
        if self.notices > wait.notices:
            return "NOTHING_NEW"
        state = self.trainer_state()
        if state == "STOPPED":
            return "TRAINER_STOPPED"
        if state == "LOST":
            return "TRAINER_LOST"
        return "ANY" if state == "ANY" else None

    def counts(self) -> dict[str, int]:
        """Explorers by state."""
        counts: dict[str, int] = {}
        for worker in self.workers.values():
            if worker.role == "explorer":
                counts[worker.state] = counts.get(worker.state, 0) + 1
        return counts
