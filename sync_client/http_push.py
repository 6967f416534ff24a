"""Pushes to the bulk port: the tensors' memory goes to the socket as it is.

An upload outlives its connection: after a break the server says how much came, and it goes on
from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from google.protobuf import json_format

from sync_client import errors
from sync_client.connection import Connection, Patience
from sync_client.http_way import HttpWay
from sync_client.http_wire import Job, Place, run
from sync_client.transfer import Progress, Source, there_already
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

_PIECE_BYTES = 4 << 20
_STUB = weights_pb2_grpc.WeightServiceStub


async def push_http(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    source: Source,
    progress: Progress | None,
) -> pb.UploadWeightsResponse | None:
    """Pushes over HTTP; None where that can't be done here.

    `header` has its size and digest. Raises what an upload raises.
    """
    way = HttpWay.of(connection)
    patience = Patience(connection.retry_for)
    sent = _Sent(header.size_bytes, progress)
    while way.open:
        request = pb.PlanUploadRequest(header=header, transports=["http"])
        try:
            plan = await connection.call(_STUB, "PlanUpload", request)
        except errors.Unimplemented:
            way.close("the server is of an earlier release")
            break
        if plan.HasField("weight_version"):
            return there_already(plan)
        offers = [p.http for p in plan.locations if p.HasField("http")]
        if not offers:
            return None
        place = Place.of(offers[0], connection.target.server)
        before = sent.offset
        job = Job(way.pool)
        try:
            answer = await run(job, partial(_upload, job, place, source, sent))
        except (errors.ServerUnavailable, errors.InvalidTicket) as error:
            if way.failed(error):
                break
            if sent.offset > before:  # it moves: be patient anew
                patience = Patience(connection.retry_for)
            if not await patience.pause():
                raise
            sent.resumes = True
            continue
        except Exception:
            # What the source or the callback raised: nobody should wait for the rest.
            with contextlib.suppress(errors.SyncError):
                await run(job, partial(_give_up, Job(way.pool), place))
            raise
        way.worked()
        return json_format.Parse(answer, pb.UploadWeightsResponse())
    return None


class _Sent:
    """How much of an upload is on its way or there."""

    def __init__(self, size: int, progress: Progress | None) -> None:
        self.size = size
        self.done = 0
        self.offset = 0
        """How much was there when the last attempt began."""
        self.resumes = False
        """Whether the server may have a part already."""
        self._progress = progress

    def begin(self, offset: int) -> None:
        """The next byte to send."""
        self.done = self.offset = offset

    def moved(self, count: int) -> None:
        """That many bytes went to the socket."""
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.size)


def _upload(job: Job, place: Place, source: Source, sent: _Sent) -> bytes:
    offset = 0
    if sent.resumes:
        with job.get(place, "HEAD") as answer:
            offset = int(answer.headers.get("Upload-Offset", "0"))
            answer.read()
    sent.begin(offset)
    return job.put(place, _pieces(source, offset), offset, sent.size, sent.moved)


def _give_up(job: Job, place: Place) -> None:
    with job.get(place, "DELETE") as answer:
        answer.read()


def _pieces(source: Source, offset: int) -> Iterator[memoryview]:
    """A view a tensor where the source has such, without gathering small ones."""
    segments = getattr(source, "segments", None)
    found: Iterator[memoryview]
    found = source.chunks(_PIECE_BYTES, offset) if segments is None else segments(offset)
    return found
