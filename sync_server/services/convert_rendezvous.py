"""Meetings as messages."""

from __future__ import annotations

from collections.abc import Sequence

from sync_server.domain.rendezvous import Formed, Meeting, Member
from sync_server.domain.workers import Worker
from sync_server.services.convert import timestamp
from weightsync import names
from weightsync.v1 import rendezvous_pb2


def meeting(run_id: str, record: Meeting, workers: Sequence[Worker]) -> rendezvous_pb2.Rendezvous:
    """A meeting as it stands: who waits in it, or the group that formed last."""
    if not record.members and record.formed is not None:
        return formed(run_id, record, record.formed)
    return rendezvous_pb2.Rendezvous(
        name=names.rendezvous_name(run_id, record.name),
        generation=record.generation,
        members=[_member(run_id, member, None) for member in record.members.values()],
        missing_workers=record.missing(workers),
        status=record.status(workers),
        open_time=timestamp(record.opened_at),
    )


def formed(run_id: str, record: Meeting, group: Formed) -> rendezvous_pb2.Rendezvous:
    """A group that formed."""
    return rendezvous_pb2.Rendezvous(
        name=names.rendezvous_name(run_id, record.name),
        generation=group.generation,
        members=[_member(run_id, m, group.rank(m.worker_id)) for m in group.members],
        status="the group has formed",
        complete=True,
        open_time=timestamp(record.opened_at),
    )


def _member(run_id: str, member: Member, rank: int | None) -> rendezvous_pb2.RendezvousMember:
    return rendezvous_pb2.RendezvousMember(
        worker=names.worker_name(run_id, member.worker_id),
        rank=rank or 0,
        rank_count=member.rank_count,
        join_time=timestamp(member.joined_at),
    )
