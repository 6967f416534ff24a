"""Versions, driven at random against a naive model that was written from the design alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sync_server.domain import commands
from sync_server.domain.errors import DomainError
from sync_server.domain.runs import Event, Run, VersionCommitted, VersionRemoved
from sync_server.domain.versions import Cause, Pusher
from sync_server.domain.waits import Held, Outcome, wait_outcome
from sync_server.domain.workers import Role
from tests.domain.builders import WALL, at, drive, version

numbers = st.integers(0, 5)
digests = st.sampled_from("ab")
owners = st.sampled_from(["eval", "bench"])
NOT_THERE = {"VersionNotFound", "VersionRetired"}


@dataclass(eq=False)
class Kept:
    """What the model knows of one version; `pins`: when they end, by owner."""

    number: int
    digest: str
    blob: str
    pusher: Pusher
    pins: dict[str, float | None] = field(default_factory=dict)

    def pinned(self, now: float) -> bool:
        """Whether a pin still holds."""
        return any(end is None or now < end for end in self.pins.values())


class VersionsMachine(RuleBasedStateMachine):
    """A trainer that comes, goes and is replaced, and people who pin and delete."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run("r", created_at=WALL)
        self.now = 0.0
        self.generation = 0
        self.trainer = False
        self.keep = 2
        self.kept: list[Kept] = []  # in the order in which they became visible
        self.served: Kept | None = None
        self.lineage = Pusher()
        self.ever_served: set[tuple[int, str]] = set()
        self.went_back_from = -1  # the highest number that was served when the run went back
        self.events: list[Event] = []
        self.removed_blobs: set[str] = set()
        self.uploads = 0

    @initialize(keep=st.integers(1, 3))
    def configure(self, keep: int) -> None:
        self.keep = keep

    def pusher(self) -> Pusher:
        """Whoever may push now."""
        return Pusher("t", self.generation) if self.trainer else Pusher()

    def find(self, number: int) -> Kept | None:
        """The version of that number."""
        return next((kept for kept in self.kept if kept.number == number), None)

    def attempt(self, refused: set[str], command: object, **asked: object) -> list[Event] | None:
        """Runs a command that must be refused for one of those reasons, or succeed."""
        assert callable(command)
        before = (self.run.revision, self.run.versions.all(), self.run.versions.current)
        found = None
        events: list[Event] = []
        try:
            events, _ = drive(self.run, at(self.now), command, **asked)
        except DomainError as error:
            found = type(error).__name__
        assert found in refused if found else not refused
        if found is not None:
            after = (self.run.revision, self.run.versions.all(), self.run.versions.current)
            assert after == before
            return None
        self.events += events
        for event in events:
            if isinstance(event.change, VersionRemoved):
                assert event.change.blob_id not in self.removed_blobs
                (removed,) = (v for v in before[1] if v.blob_id == event.change.blob_id)
                if command is commands.commit and event.change.cause is Cause.RETENTION:
                    assert not removed.pinned(at(self.now))
                self.removed_blobs.add(event.change.blob_id)
        return events

    def drop(self, gone: Kept) -> None:
        """The model forgets a version."""
        self.kept.remove(gone)
        if self.served is gone:
            self.went_back_from = max(self.went_back_from, gone.number)
            self.served = None

    # --- what happens

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule(comes=st.sampled_from([True, True, False]))
    def trainer_comes_or_goes(self, comes: bool) -> None:
        if comes:  # it takes its own name over, as a restarted process does
            self.generation += 1
            self.attempt(
                set(),
                commands.register,
                worker_id="t",
                role=Role.TRAINER,
                lease_seconds=3600.0,
                resume_generation=None,
            )
        else:
            self.attempt(set(), commands.deregister, worker_id="t", generation=self.generation)
        self.trainer = comes

    @rule(number=numbers, digest=digests)
    def push(self, number: int, digest: str) -> None:
        pusher, hit, served = self.pusher(), self.find(number), self.served
        one_lineage = pusher in (self.lineage, Pusher())
        there = hit is not None and hit.digest == digest
        refused: set[str] = set()
        done = False
        if served is not None:
            if there:
                done = number == served.number or (number < served.number and one_lineage)
            elif number <= served.number and one_lineage:
                refused = {"VersionExists" if hit else "VersionNotNewer"}
        self.uploads += 1
        blob = f"blob{self.uploads}"
        item = version(number, digest, pusher=pusher, blob_id=blob)
        events = self.attempt(refused, commands.commit, version=item, keep=self.keep)
        if events is None or done:
            assert not events
            return
        new = hit if hit is not None and there else Kept(number, digest, blob, pusher)
        new.pusher = pusher
        if served is not None and number <= served.number:
            self.went_back_from = max(self.went_back_from, served.number)
        self.kept = [
            kept
            for kept in self.kept
            if kept.number < number or (kept.number > number and kept.pinned(self.now))
        ]
        newest_first = [new, *reversed(self.kept)]
        self.kept = [
            kept
            for place, kept in reversed(list(enumerate(newest_first)))
            if place < self.keep or kept.pinned(self.now)
        ]
        self.served, self.lineage = new, pusher
        self.ever_served.add((number, digest))

        assert isinstance(events[0].change, VersionCommitted)
        assert sum(not kept.pinned(self.now) for kept in self.kept) <= max(self.keep, 1)
        for event in events[1:]:
            assert isinstance(event.change, VersionRemoved)
            assert event.change.blob_id != new.blob

    @rule(number=numbers)
    def roll_back(self, number: int) -> None:
        hit, served = self.find(number), self.served
        events = self.attempt(set() if hit else NOT_THERE, commands.rollback, number=number)
        if events is None or hit is None or hit is served:
            assert not events
            return
        assert [type(event.change) for event in events] == [VersionCommitted]
        if served is not None and number < served.number:
            self.went_back_from = max(self.went_back_from, served.number)
        self.kept.remove(hit)
        self.kept.append(hit)  # the one that became visible last
        self.served, self.lineage = hit, hit.pusher

    @rule(number=numbers, owner=owners, ttl=st.sampled_from([None, None, 0.0, 3.0, 30.0]))
    def pin(self, number: int, owner: str, ttl: float | None) -> None:
        hit = self.find(number)
        refused = set() if hit else NOT_THERE
        if self.attempt(refused, commands.pin, number=number, owner=owner, ttl=ttl):
            assert hit is not None
            hit.pins = {o: e for o, e in hit.pins.items() if e is None or self.now < e}
            hit.pins[owner] = None if ttl is None else self.now + ttl

    @rule(number=numbers, owner=owners)
    def unpin(self, number: int, owner: str) -> None:
        hit = self.find(number)
        place = [*reversed(self.kept)].index(hit) if hit else 0
        events = self.attempt(
            set() if hit else NOT_THERE,
            commands.unpin,
            number=number,
            owner=owner,
            keep=self.keep,
        )
        if events is None or hit is None:
            return
        hit.pins = {o: e for o, e in hit.pins.items() if o != owner and (e is None or self.now < e)}
        left_behind = self.served is not None and number > self.served.number
        stays = hit is self.served or (place < self.keep and not left_behind)
        if not hit.pins and not stays:
            self.drop(hit)

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        hit = self.find(number)
        refused = set() if hit else NOT_THERE
        if hit is not None and hit is self.served:
            refused = {"VersionInUse"}
        elif hit is not None and hit.pinned(self.now):
            refused = {"VersionPinned"}
        if self.attempt(refused, commands.delete, number=number):
            assert hit is not None
            self.drop(hit)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def bytes_are_damaged(self, data: st.DataObject) -> None:
        hit = data.draw(st.sampled_from(self.kept))
        self.attempt(set(), commands.lose_blob, number=hit.number, blob_id=hit.blob)
        self.drop(hit)

    # --- what must hold

    @invariant()
    def the_book_is_the_model(self) -> None:
        pins = {
            kept.number: {o: None if e is None else WALL + e for o, e in kept.pins.items()}
            for kept in self.kept
        }
        found = self.run.versions.all()
        assert [(v.number, v.digest, v.blob_id) for v in found] == [
            (kept.number, kept.digest, kept.blob) for kept in reversed(self.kept)
        ]
        assert {v.number: {p.owner: p.expires_at for p in v.pins} for v in found} == pins
        latest = self.run.versions.latest()
        assert (None if latest is None else latest.blob_id) == (
            None if self.served is None else self.served.blob
        )

    @invariant()
    def no_blob_in_use_was_ever_removed(self) -> None:
        assert self.removed_blobs.isdisjoint(v.blob_id for v in self.run.versions.all())

    @invariant()
    def revisions_count_the_changes(self) -> None:
        assert self.run.revision == len(self.events)
        assert [event.revision for event in self.events] == [*range(1, len(self.events) + 1)]
        assert self.run.events_after(0) == self.events

    @invariant()
    def waits_are_over_exactly_when_there_is_news(self) -> None:
        served = self.served
        for number in range(7):
            for digest in ("a", "b", ""):
                news = served is not None and (
                    number < served.number
                    or (number == served.number and digest not in ("", served.digest))
                    or served.number < number <= self.went_back_from
                )
                self.check_wait(Held(number, digest), news)
        self.check_wait(Held(None), served is not None)

    @invariant()
    def who_holds_what_was_once_served_is_never_left_behind(self) -> None:
        served = self.served
        for number, digest in self.ever_served:
            current = served is not None and (number, digest) == (served.number, served.digest)
            self.check_wait(Held(number, digest), served is not None and not current)

    def check_wait(self, held: Held, news: bool) -> None:
        """The wait is over if and only if there is news."""
        outcome = wait_outcome(self.run.versions, None, held, nothing_new=False)
        assert outcome is (Outcome.REACHED if news else None), held


TestVersionsMachine = VersionsMachine.TestCase
TestVersionsMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
