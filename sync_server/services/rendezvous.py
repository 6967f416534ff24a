"""RendezvousService: members of a process group find each other."""

from __future__ import annotations

from typing import Any

import grpc.aio

from sync_server.coordinator import Coordinator
from sync_server.domain.errors import InvalidArgument
from sync_server.domain.rendezvous import Meeting, Member
from sync_server.domain.versions import check_number
from sync_server.domain.workers import Role
from sync_server.meetings import MeetingRooms
from sync_server.services import convert, convert_rendezvous
from weightsync import names
from weightsync.v1 import rendezvous_pb2 as pb
from weightsync.v1 import rendezvous_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_WAIT_SECONDS = 30.0
_MAX_WAIT_SECONDS = 3600.0


class RendezvousServicer(rendezvous_pb2_grpc.RendezvousServiceServicer):
    """Named meetings of workers."""

    def __init__(self, coordinator: Coordinator, rooms: MeetingRooms) -> None:
        self._coordinator = coordinator
        self._rooms = rooms

    async def JoinRendezvous(
        self, request: pb.JoinRendezvousRequest, context: Context
    ) -> pb.JoinRendezvousResponse:
        """The long poll."""
        run_id, group = names.parse_rendezvous(request.name)
        worker_id = convert.own_worker(request.worker, run_id)
        if not worker_id:
            raise InvalidArgument("a worker is needed: register first", field="worker")
        if request.HasField("version"):
            check_number(request.version)
        member = Member(
            worker_id=worker_id,
            role=Role.EXPLORER,
            generation=request.generation,
            rank_count=request.rank_count or 1,
            address=request.leader_address,
            port=request.leader_port,
            worker_count=request.worker_count,
            version=request.version if request.HasField("version") else None,
            request_id=request.request_id,
        )
        max_wait = (
            convert.seconds(request.max_wait, "max_wait", _MAX_WAIT_SECONDS)
            if request.HasField("max_wait")
            else _DEFAULT_WAIT_SECONDS
        )
        formed = await self._rooms.join(run_id, group, member, max_wait)
        meeting = self._rooms.of(run_id).get(group)
        return pb.JoinRendezvousResponse(
            rank=formed.rank(worker_id),
            world_size=formed.world_size,
            leader_address=formed.leader.address,
            leader_port=formed.leader.port,
            version=formed.leader.version,
            rendezvous=convert_rendezvous.formed(run_id, meeting, formed),
        )

    async def LeaveRendezvous(
        self, request: pb.LeaveRendezvousRequest, context: Context
    ) -> pb.LeaveRendezvousResponse:
        """Takes a member out."""
        run_id, group = names.parse_rendezvous(request.name)
        worker_id = convert.own_worker(request.worker, run_id)
        self._rooms.leave(run_id, group, worker_id, request.generation)
        return pb.LeaveRendezvousResponse()

    async def GetRendezvous(
        self, request: pb.GetRendezvousRequest, context: Context
    ) -> pb.GetRendezvousResponse:
        """Who is there and who is missing."""
        run_id, group = names.parse_rendezvous(request.name)
        workers = self._coordinator.run(run_id).workers.all()
        meeting: Meeting = self._rooms.of(run_id).get(group)
        return pb.GetRendezvousResponse(
            rendezvous=convert_rendezvous.meeting(run_id, meeting, workers)
        )
