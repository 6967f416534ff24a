"""Meetings: when a group forms, with whom, and what is said while it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sync_server.domain.errors import InvalidArgument, RendezvousNotFound
from sync_server.domain.leases import Lease
from sync_server.domain.rendezvous import MAX_RANKS, Formed, Meeting, Meetings, Member, peer_lost
from sync_server.domain.workers import GONE, Role, State, Worker

NAMES = ("t0", "t1", "e0", "e1", "e2")


def role_of(name: str) -> Role:
    """By its first letter."""
    return Role.TRAINER if name.startswith("t") else Role.EXPLORER


def worker(name: str, state: State = State.RUNNING, generation: int = 1) -> Worker:
    """A worker as the table has it."""
    return Worker(name, role_of(name), state, generation, Lease(10.0, 100.0), 0.0, 0.0)


def member(name: str, **changes: Any) -> Member:
    """A member as the room makes it."""
    at = changes.pop("at", 0.0)
    return replace(Member(name, role_of(name), 1, joined_at=at), **changes)


def test_it_forms_when_everybody_is_there() -> None:
    meeting = Meeting("g", 0.0)
    workers = [worker("t0"), worker("e0"), worker("e1")]
    for name in ("e1", "t0"):
        meeting.join(member(name))
        assert meeting.form(workers) is None
    assert meeting.missing(workers) == ["e0"]
    assert meeting.status(workers) == "e1, t0 waits for e0"
    meeting.join(member("e0", at=5.0, rank_count=4))
    formed = meeting.form(workers)
    assert formed is not None
    assert [m.worker_id for m in formed.members] == ["t0", "e1", "e0"]
    assert [formed.rank(name) for name in ("t0", "e1", "e0")] == [0, 1, 2]
    assert (formed.world_size, formed.generation) == (6, 1)
    assert meeting.members == {}
    assert meeting.status(workers) == "the group has formed"
    with pytest.raises(KeyError):
        formed.rank("t1")


def test_the_trainer_says_how_many_make_the_group() -> None:
    meeting = Meeting("g", 0.0)
    workers = [worker("t0"), worker("e0"), worker("e1"), worker("e2")]
    meeting.join(member("e2", at=1.0, worker_count=4))
    meeting.join(member("e0", at=2.0))
    meeting.join(member("t0", at=3.0, worker_count=2))
    formed = meeting.form(workers)
    assert formed is not None
    assert [m.worker_id for m in formed.members] == ["t0", "e2"]  # who came first
    assert list(meeting.members) == ["e0"]
    assert meeting.form(workers) is None


def test_a_trainer_alone_is_a_group_if_it_says_so() -> None:
    meeting = Meeting("g", 0.0)
    meeting.join(member("t0"))
    assert meeting.form([worker("t0")]) is None
    assert meeting.status([worker("t0")]) == "t0 waits for 1 more that nobody announced"
    meeting.join(member("t0", worker_count=1))
    assert meeting.form([worker("t0")]) is not None


def test_who_is_gone_is_named() -> None:
    meeting = Meeting("g", 0.0)
    meeting.join(member("t0", worker_count=2))
    workers = [worker("t0"), worker("e0", State.STOPPED), worker("e1", State.LOST)]
    assert [w.worker_id for w in meeting.lost(workers)] == ["e0", "e1"]
    error = peer_lost(meeting, meeting.lost(workers))
    assert "explorer e0 has stopped, explorer e1 was lost" in error.message
    assert error.metadata == {"workers": "e0,e1"}
    assert "can't meet" in meeting.status(workers)
    # Another one is there that can come in their place.
    assert meeting.lost([*workers, worker("e2")]) == []
    # Nobody ever came: who waits may go on waiting.
    assert meeting.lost([worker("t0")]) == []


def test_explorers_are_told_that_the_trainer_is_gone() -> None:
    meeting = Meeting("g", 0.0)
    meeting.join(member("e0"))
    workers = [worker("t0", State.LOST), worker("e0")]
    assert [w.worker_id for w in meeting.lost(workers)] == ["t0"]
    assert meeting.lost([*workers, worker("t1")]) == []


def test_the_dead_and_the_replaced_do_not_count() -> None:
    meeting = Meeting("g", 0.0)
    meeting.join(member("e0"))
    meeting.join(member("e1"))
    meeting.prune([worker("t0"), worker("e0", State.LOST), worker("e1", generation=2)])
    assert meeting.members == {}


def test_an_answer_is_given_again_to_who_asks_again() -> None:
    meeting = Meeting("g", 0.0)
    workers = [worker("t0"), worker("e0")]
    meeting.join(member("t0", request_id="a"))
    meeting.join(member("e0"))
    formed = meeting.form(workers)
    assert meeting.answer("t0", "a") is formed
    assert meeting.answer("t0", "b") is None
    assert meeting.answer("e0", "a") is None
    assert meeting.answer("e0", "") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_count": 0},
        {"rank_count": -1},
        {"rank_count": MAX_RANKS + 1},
        {"worker_count": -1},
        {"worker_count": MAX_RANKS + 1},
        {"port": -1},
        {"port": 65536},
    ],
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    meeting = Meeting("g", 0.0)
    with pytest.raises(InvalidArgument):
        meeting.join(member("t0", **changes))
    assert meeting.members == {}


def test_a_meeting_that_never_was() -> None:
    meetings = Meetings()
    with pytest.raises(RendezvousNotFound):
        meetings.get("g")
    assert meetings.open("g", 3.0) is meetings.get("g")
    assert meetings.all() == [meetings.get("g")]


class MeetingMachine(RuleBasedStateMachine):
    """Workers come, go, die and are replaced, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = Meeting("g", 0.0)
        self.workers = {name: worker(name, State.STOPPED) for name in NAMES}
        self.now = 0.0
        self.came: list[Member] = []
        self.left: list[Member] = []
        self.groups: list[Formed] = []

    def _form(self) -> None:
        workers = list(self.workers.values())
        self.meeting.prune(workers)
        waiting = dict(self.meeting.members)
        formed = self.meeting.form(workers)
        if formed is None:
            return
        self.groups.append(formed)
        assert formed.leader.role is Role.TRAINER
        assert all(m.role is Role.EXPLORER for m in formed.members[1:])
        assert all(waiting[m.worker_id] is m for m in formed.members)
        assert all(self.workers[m.worker_id].state not in GONE for m in formed.members)
        assert not any(m is gone for m in formed.members for gone in self.left)
        ranks = [formed.rank(m.worker_id) for m in formed.members]
        ends = [rank + m.rank_count for rank, m in zip(ranks, formed.members, strict=True)]
        assert ranks == [0, *ends[:-1]]
        assert formed.world_size == ends[-1]
        if formed.leader.worker_count:
            assert len(formed.members) == formed.leader.worker_count

    @rule(
        name=st.sampled_from(NAMES),
        count=st.sampled_from([0, 0, 1, 2, 3]),
        ranks=st.integers(1, 4),
    )
    def join(self, name: str, count: int, ranks: int) -> None:
        """Only who is there joins."""
        self.now += 1
        found = self.workers[name]
        if found.state in GONE:
            return
        before = self.meeting.members.get(name)
        if before is not None:
            self.left.append(before)
        made = Member(
            name,
            role_of(name),
            found.generation,
            rank_count=ranks,
            worker_count=count,
            joined_at=self.now,
            request_id=str(self.now),
        )
        self.came.append(made)
        self.meeting.join(made)
        self._form()

    @rule(index=st.integers(0, 50))
    def leave(self, index: int) -> None:
        """Somebody who waits goes; who went before changes nothing."""
        if self.came:
            gone = self.came[index % len(self.came)]
            if self.meeting.members.get(gone.worker_id) is gone:
                self.left.append(gone)
            self.meeting.leave(gone)
            self._form()  # it may have been the one that asked for more

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(list(State)), again=st.booleans())
    def become(self, name: str, state: State, again: bool) -> None:
        """A worker changes its state, or its name is taken over."""
        found = self.workers[name]
        other = {"t0": "t1", "t1": "t0"}.get(name)
        if other is not None and state not in GONE:  # one trainer at a time holds the run
            self.workers[other] = worker(other, State.LOST, self.workers[other].generation)
        self.workers[name] = worker(name, state, found.generation + again)
        self._form()

    @invariant()
    def nobody_who_could_meet_waits(self) -> None:
        """Whoever can form a group has formed it."""
        assert self.meeting.chosen(list(self.workers.values())) is None
        assert [group.generation for group in self.groups] == list(range(1, len(self.groups) + 1))

    @invariant()
    def nobody_is_in_two_groups(self) -> None:
        """A member is in one group at most, and then no longer waits."""
        members = [id(m) for group in self.groups for m in group.members]
        assert len(members) == len(set(members))
        assert not set(members) & {id(m) for m in self.meeting.members.values()}

    @invariant()
    def what_it_says_is_one_line(self) -> None:
        """For people."""
        assert "\n" not in self.meeting.status(list(self.workers.values()))


TestMeetingMachine = MeetingMachine.TestCase
