"""Meetings of workers: who has come, who is missing, and when a group forms (pure).

A group forms once the trainer and the explorers that it takes are there at the same moment. It
gets a generation that guards against peers of an earlier one, and everybody the same answer.
Decisions name who is missing in words. The idea of one decision for all comes from torchft's
lighthouse (`quorum_compute`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sync_server.domain.errors import InvalidArgument, PeerLost, RendezvousNotFound
from sync_server.domain.workers import GONE, Role, Worker

MAX_RANKS = 1_000_000
# Answers that were given, for callers whose connection broke before they heard them.
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that has come; `version` is what it could transfer, `joined_at` wall seconds."""

    worker_id: str
    role: Role
    generation: int
    rank_count: int = 1
    address: str = ""
    port: int = 0
    worker_count: int = 0
    version: int | None = None
    joined_at: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Formed:
    """A group: its members in the order of their ranks, the trainer's first."""

    generation: int
    members: tuple[Member, ...]

    @property
    def leader(self) -> Member:
        """The trainer."""
        return self.members[0]

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return sum(member.rank_count for member in self.members)

    def rank(self, worker_id: str) -> int:
        """A member's first rank."""
        rank = 0
        for member in self.members:
            if member.worker_id == worker_id:
                return rank
            rank += member.rank_count
        raise KeyError(worker_id)


@dataclass
class Meeting:
    """One named meeting. Only its methods change it."""

    name: str
    opened_at: float
    generation: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    formed: Formed | None = None
    _answers: OrderedDict[tuple[str, str], Formed] = field(default_factory=OrderedDict)

    # --- reading

    def answer(self, worker_id: str, request_id: str) -> Formed | None:
        """What a request was answered already."""
        return self._answers.get((worker_id, request_id)) if request_id else None

    def chosen(self, workers: Sequence[Worker]) -> list[Member] | None:
        """The members of the group that can form now, in the order of their ranks; None: none."""
        leader = self._leader()
        if leader is None:
            return None
        explorers = [m for m in self._in_order() if m.role is Role.EXPLORER]
        wanted = self._wanted(workers) - 1
        return None if len(explorers) < wanted else [leader, *explorers[:wanted]]

    def missing(self, workers: Sequence[Worker]) -> list[str]:
        """The live workers that could come and have not."""
        live = [w.worker_id for w in workers if w.state not in GONE]
        return [name for name in live if name not in self.members]

    def lost(self, workers: Sequence[Worker]) -> list[Worker]:
        """Those without whom the group can't form: gone, and too few others are there."""
        gone = [w for w in workers if w.state in GONE]
        live = [w for w in workers if w.state not in GONE]
        wanted = self._wanted(workers) - 1
        trainers = [w for w in gone if w.role is Role.TRAINER]
        explorers = [w for w in gone if w.role is Role.EXPLORER]
        no_trainer = not any(w.role is Role.TRAINER for w in live)
        too_few = sum(w.role is Role.EXPLORER for w in live) < wanted
        return [*(trainers if no_trainer else ()), *(explorers if too_few else ())]

    def status(self, workers: Sequence[Worker]) -> str:
        """In one sentence: what it waits for."""
        if not self.members:
            return "nobody has come" if self.formed is None else "the group has formed"
        come = ", ".join(sorted(self.members))
        lost = self.lost(workers)
        if lost:
            return f"{come} can't meet: {_said(lost)}"
        missing = self.missing(workers)
        if missing:
            return f"{come} waits for {', '.join(missing)}"
        wanted = self._wanted(workers)
        return f"{come} waits for {max(wanted - len(self.members), 1)} more that nobody announced"

    # --- changing

    def join(self, member: Member) -> None:
        """Somebody comes; coming again replaces what was said before. Raises InvalidArgument."""
        if not 1 <= member.rank_count <= MAX_RANKS:
            raise InvalidArgument(
                f"rank_count {member.rank_count}: 1 to {MAX_RANKS} is allowed", field="rank_count"
            )
        if not 0 <= member.worker_count <= MAX_RANKS:
            raise InvalidArgument(
                f"worker_count {member.worker_count}: 0 (everybody) to {MAX_RANKS} is allowed",
                field="worker_count",
            )
        if not 0 <= member.port <= 65535:
            raise InvalidArgument(
                f"leader_port {member.port}: 0 to 65535 is allowed", field="leader_port"
            )
        if not self.members:
            self.opened_at = member.joined_at
        self.members[member.worker_id] = member

    def leave(self, member: Member) -> None:
        """Somebody goes, unless the same worker came anew meanwhile."""
        if self.members.get(member.worker_id) is member:
            del self.members[member.worker_id]

    def prune(self, workers: Sequence[Worker]) -> None:
        """Forgets members that are gone, or whose name was taken over."""
        live = {(w.worker_id, w.generation) for w in workers if w.state not in GONE}
        for member in list(self.members.values()):
            if (member.worker_id, member.generation) not in live:
                self.leave(member)

    def form(self, workers: Sequence[Worker]) -> Formed | None:
        """Forms the group if it can form now: its members are no longer waited for."""
        chosen = self.chosen(workers)
        if chosen is None:
            return None
        self.generation += 1
        self.formed = Formed(self.generation, tuple(chosen))
        for member in chosen:
            del self.members[member.worker_id]
            if member.request_id:
                self._answers[member.worker_id, member.request_id] = self.formed
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return self.formed

    # --- inside

    def _leader(self) -> Member | None:
        return next((m for m in self._in_order() if m.role is Role.TRAINER), None)

    def _in_order(self) -> list[Member]:
        return sorted(self.members.values(), key=lambda m: (m.joined_at, m.worker_id))

    def _wanted(self, workers: Sequence[Worker]) -> int:
        """How many workers make the group: what the trainer says, else what anybody says, else
        every live one, and two at the least."""
        leader = self._leader()
        said = [m.worker_count for m in self._in_order() if m.worker_count]
        if leader is not None and leader.worker_count:
            return leader.worker_count
        return said[0] if said else max(2, sum(w.state not in GONE for w in workers))


class Meetings:
    """All meetings of one run, by name."""

    def __init__(self) -> None:
        self._meetings: dict[str, Meeting] = {}

    def all(self) -> list[Meeting]:
        """Every one, by name."""
        return [self._meetings[name] for name in sorted(self._meetings)]

    def get(self, name: str) -> Meeting:
        """One meeting. Raises RendezvousNotFound."""
        meeting = self._meetings.get(name)
        if meeting is None:
            raise RendezvousNotFound(f"nobody ever joined the rendezvous {name!r}", rendezvous=name)
        return meeting

    def open(self, name: str, at: float) -> Meeting:
        """One meeting, made where it is new; `at` in wall seconds."""
        return self._meetings.setdefault(name, Meeting(name, at))


def peer_lost(meeting: Meeting, lost: Sequence[Worker]) -> PeerLost:
    """The error for those who wait in vain."""
    return PeerLost(
        f"rendezvous {meeting.name!r} can't form: {_said(lost)}",
        workers=",".join(worker.worker_id for worker in lost),
    )


def _said(lost: Sequence[Worker]) -> str:
    return ", ".join(
        f"{worker.role.value} {worker.worker_id} "
        + ("has stopped" if worker.state.value == "STOPPED" else "was lost")
        for worker in lost
    )
