"""ProgressService: how far each side got."""

from __future__ import annotations

from typing import Any

import grpc.aio

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import InvalidArgument
from sync_server.domain.progress import Progress
from sync_server.domain.versions import Pusher
from sync_server.services import convert
from weightsync import names
from weightsync.v1 import progress_pb2 as pb
from weightsync.v1 import progress_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

# A record of one of these names holds nothing else; of any other name anything.
_KINDS = {"trainer", "explorer", "stage"}


class ProgressServicer(progress_pb2_grpc.ProgressServiceServicer):
    """Progress records."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def SaveProgress(
        self, request: pb.SaveProgressRequest, context: Context
    ) -> pb.SaveProgressResponse:
        """Saves a record whole."""
        run_id, record_id = names.parse_progress(request.progress.name)
        payload = _payload(record_id, request.progress)
        writer = Pusher(convert.own_worker(request.worker, run_id), request.generation)
        record = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.save_progress(
                run,
                now,
                writer=writer,
                record_id=record_id,
                payload=payload,
                etag=request.progress.etag,
            ),
            create=not writer.worker_id,
            request=("SaveProgress", request.request_id),
        )
        return pb.SaveProgressResponse(progress=_message(run_id, record))

    async def GetProgress(
        self, request: pb.GetProgressRequest, context: Context
    ) -> pb.GetProgressResponse:
        """One record."""
        run_id, record_id = names.parse_progress(request.name)
        record = self._coordinator.run(run_id).progress.get(record_id)
        return pb.GetProgressResponse(progress=_message(run_id, record))


def _payload(record_id: str, progress: pb.Progress) -> bytes:
    """The record alone, as it is stored. Raises InvalidArgument for none or a wrong kind."""
    kind = progress.WhichOneof("record")
    if kind is None:
        raise InvalidArgument("a trainer, explorer or stage record is expected", field="progress")
    if record_id in _KINDS and kind != record_id:
        raise InvalidArgument(f"progress {record_id!r} holds no {kind} record", field="progress")
    bare = pb.Progress()
    bare.CopyFrom(progress)
    for field in ("name", "etag", "update_time"):
        bare.ClearField(field)
    return bare.SerializeToString(deterministic=True)


def _message(run_id: str, record: Progress) -> pb.Progress:
    message = pb.Progress.FromString(record.payload)
    message.name = names.progress_name(run_id, record.record_id)
    message.etag = record.etag
    message.update_time.CopyFrom(convert.timestamp(record.saved_at))
    return message
