"""Where members of a process group wait for each other.

Meetings live in memory alone: after a restart of the server the members' calls are repeated by
their clients, and they meet anew.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from sync_server.coordinator import Coordinator
from sync_server.domain.errors import IllegalTransition, PeerLost, RendezvousTimeout
from sync_server.domain.rendezvous import Formed, Meeting, Meetings, Member, peer_lost
from sync_server.domain.runs import Event, WorkerChanged, WorkerRemoved
from sync_server.domain.workers import GONE
from sync_server.waiting import Parked

_log = structlog.get_logger(__name__)


class MeetingRooms:
    """The meetings of all runs. Used on the event loop's thread alone."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._runs: dict[str, Meetings] = {}
        coordinator.observe(self._on_event)

    def of(self, run_id: str) -> Meetings:
        """The meetings of a run."""
        return self._runs.setdefault(run_id, Meetings())

    async def join(self, run_id: str, group: str, member: Member, max_wait: float) -> Formed:
        """Waits until the group forms with this member.

        `member` needs no role and no time. Raises what `WorkerTable.authorize` raises,
        IllegalTransition for a worker that has stopped, InvalidArgument, PeerLost,
        RendezvousTimeout (which names who did not come), ShuttingDown.
        """
        run, now = self._coordinator.run(run_id), self._coordinator.now()
        worker = run.workers.authorize(member.worker_id, member.generation, now)
        if worker.state in GONE:
            raise IllegalTransition(
                f"worker {worker.worker_id!r} is {worker.state.value} and can't join a rendezvous",
                state=worker.state.value,
            )
        meeting = self.of(run_id).open(group, now.wall)
        answer = meeting.answer(member.worker_id, member.request_id)
        if answer is not None:
            return answer
        member = replace(member, role=worker.role, joined_at=now.wall)
        meeting.join(member)
        self._form(run_id, meeting)

        def over() -> Formed | PeerLost | None:
            formed = meeting.formed
            if formed is not None and any(other is member for other in formed.members):
                return formed
            lost = meeting.lost(run.workers.all())
            return peer_lost(meeting, lost) if lost else None

        what = f"the rendezvous {group}"
        parked = Parked(("rendezvous", run_id), member.worker_id, what, now.wall)
        try:
            outcome = await self._coordinator.room.wait(parked, over, max_wait)
            if outcome is None:  # what came with the end of the time counts
                outcome = over()
        finally:
            status = meeting.status(run.workers.all())
            self._take_out(run_id, meeting, member)
        if isinstance(outcome, PeerLost):
            raise outcome
        if not isinstance(outcome, Formed):
            missing = meeting.missing(run.workers.all())
            raise RendezvousTimeout(
                f"rendezvous {group!r} did not form within {max_wait:g} s: {status}",
                missing=",".join(name for name in missing if name != member.worker_id),
            )
        return outcome

    def leave(self, run_id: str, group: str, worker_id: str, generation: int) -> None:
        """A worker no longer takes part. Raises RendezvousNotFound, and as `authorize`."""
        run = self._coordinator.run(run_id)
        run.workers.authorize(worker_id, generation, self._coordinator.now())
        meeting = self.of(run_id).get(group)
        member = meeting.members.get(worker_id)
        if member is not None:
            self._take_out(run_id, meeting, member)

    def parked(self, run_id: str) -> list[Parked]:
        """Who waits in a meeting of the run, the longest wait first."""
        return self._coordinator.room.parked(("rendezvous", run_id))

    def _take_out(self, run_id: str, meeting: Meeting, member: Member) -> None:
        meeting.leave(member)
        self._form(run_id, meeting)  # it may have been the one that asked for more

    def _on_event(self, run_id: str, event: Event) -> None:
        """An observer of the coordinator: somebody came or went."""
        if isinstance(event.change, WorkerChanged | WorkerRemoved) and run_id in self._runs:
            for meeting in self._runs[run_id].all():
                self._form(run_id, meeting)
            self._coordinator.room.notify(("rendezvous", run_id))

    def _form(self, run_id: str, meeting: Meeting) -> None:
        workers = self._coordinator.run(run_id).workers.all()
        meeting.prune(workers)
        formed = meeting.form(workers)
        if formed is not None:
            _log.info(
                "rendezvous formed",
                run=run_id,
                rendezvous=meeting.name,
                generation=formed.generation,
                members=[member.worker_id for member in formed.members],
            )
            self._coordinator.room.notify(("rendezvous", run_id))
