"""Pushes into a segment of the server, where this process sees its files: one copy, no socket.

The server hands a segment out, with all of its pages. The upload's stream is open while it is being
filled, so a client that dies is noticed at once; what lies in the segment is verified by the server
against the digest that was computed from the tensors before, as over any other way.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any

from sync_client import errors
from sync_client.connection import Connection, damaged_answer
from sync_client.segments import Segment, Segments, fill
from sync_client.shared_memory import same_files, say_never
from sync_client.transfer import UPLOAD, Progress, Source, there_already
from weightsync.frames import upload_header_frame
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc


async def push_shared(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    source: Source,
    progress: Progress | None,
) -> pb.UploadWeightsResponse | None:
    """Pushes through a segment; None where that can't be done here.

    `header` has its size and digest. Raises what an upload raises.
    """
    if connection.shared_memory is False:
        return None
    stub = weights_pb2_grpc.WeightServiceStub
    try:
        plan = await connection.call(stub, "PlanUpload", _request(header))
    except errors.Unimplemented:
        say_never(connection, "the server is of an earlier release")
        return None
    if plan.HasField("weight_version"):
        return there_already(plan)
    offers = [p.shared_memory for p in plan.locations if p.HasField("shared_memory")]
    if not offers:
        return None
    if connection.shared_memory is None:
        if not same_files(offers[0]):
            say_never(connection, "the server's files are not to be seen from here")
            return None
        connection.shared_memory = True
    segments = _segments.get(connection)
    if segments is None:
        segments = _segments[connection] = Segments()
        connection.on_close.append(segments.close)
    segment = segments.open(offers[0].path, header.size_bytes)
    if segment is None:
        return None
    path = offers[0].path
    try:
        response = await _fill_and_commit(connection, header, path, segment, source, progress)
    finally:
        segments.let_go(segment)
    if response.next_segment:
        segments.expect(response.next_segment, header.size_bytes)
    return response


def _request(header: pb.UploadWeightsHeader) -> pb.PlanUploadRequest:
    return pb.PlanUploadRequest(header=header, transports=["shared-memory"])


async def _fill_and_commit(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    path: str,
    segment: Segment,
    source: Source,
    progress: Progress | None,
) -> pb.UploadWeightsResponse:
    claim = pb.UploadWeightsHeader()
    claim.CopyFrom(header)
    claim.segment = path
    broken: list[BaseException] = []

    async def frames() -> AsyncIterator[bytes]:
        yield upload_header_frame(claim)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, fill, segment, source, progress)
        except BaseException as error:
            broken.append(error)
            raise

    method: Any = connection.channel.stream_unary(
        UPLOAD,
        request_serializer=None,
        response_deserializer=pb.UploadWeightsResponse.FromString,
    )
    call = method(frames(), metadata=connection.target.metadata())
    try:
        response = await call
    except asyncio.CancelledError:
        # What the source or the callback raised: gRPC keeps it to itself and cancels the call.
        if broken and not isinstance(broken[0], asyncio.CancelledError):
            raise broken[0] from None
        raise
    if not isinstance(response, pb.UploadWeightsResponse):
        raise damaged_answer()
    return response


_segments: weakref.WeakKeyDictionary[Connection, Segments] = weakref.WeakKeyDictionary()
