"""Pulls from the bulk port: the socket is read straight into the tensors' memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sync_client import errors
from sync_client.connection import Connection, Patience
from sync_client.http_answer import Answer
from sync_client.http_way import HttpWay
from sync_client.http_wire import Job, Place, run
from sync_client.transfer import Progress, Received, Sink
from weightsync.digests import version_digest
from weightsync.layout import Layout, LayoutError, UnknownTensor, header_size, parse
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

_PREFIX_BYTES = 8
_FIRST_BYTES = 64 << 10  # the header, of all but the largest models
_PIECE_BYTES = 1 << 20  # what is hashed is still in the processor's cache then
_STUB = weights_pb2_grpc.WeightServiceStub


async def pull_http(
    connection: Connection,
    name: str,
    tensor_names: Sequence[str],
    sink: Sink,
    progress: Progress | None,
    least_bytes: int = 0,
) -> Received | None:
    """Fills `sink` over HTTP and verifies it.

    None where that can't be done here, or the version is smaller than `least_bytes`.

    What broke is resumed where it was; what does not have its digest is fetched once more. Raises
    what a download raises.
    """
    way = HttpWay.of(connection)
    patience = Patience(connection.retry_for)
    fetch: Fetch | None = None
    wire_bytes, attempts = 0, 0
    while way.open:
        request = pb.PlanDownloadRequest(name=name, tensor_names=tensor_names, transports=["http"])
        try:
            plan = await connection.call(_STUB, "PlanDownload", request)
        except errors.Unimplemented:
            way.close("the server is of an earlier release")
            break
        offers = [p.http for p in plan.locations if p.HasField("http")]
        version = plan.weight_version
        if not offers or version.size_bytes < least_bytes:
            return None
        if fetch is None:
            fetch = Fetch(version, tensor_names, sink, progress)
        elif version.digest != fetch.version.digest:
            raise errors.VersionExists(f"{name} now has other bytes ({version.digest})")
        before = fetch.done
        place = Place.of(offers[0], connection.target.server)
        job = Job(way.pool)
        try:
            await run(job, partial(fetch.run, job, place))
            problem = await _problem(connection, fetch)
        except LayoutError as error:
            problem = f"the received header is damaged: {error}"
        except (errors.ServerUnavailable, errors.InvalidTicket) as error:
            if way.failed(error):
                return None
            if fetch.done > before:  # it moves: be patient anew
                patience = Patience(connection.retry_for)
            if not await patience.pause():
                raise
            continue
        way.worked()
        wire_bytes += fetch.received
        if not problem:
            return Received(fetch.version, wire_bytes, "http")
        attempts += 1
        if attempts == 2:
            raise errors.DigestMismatch(f"{name}: {problem}")
        fetch = None
    return None


class Fetch:
    """One version on its way, across its interruptions."""

    def __init__(
        self,
        version: pb.WeightVersion,
        tensor_names: Sequence[str],
        sink: Sink,
        progress: Progress | None,
    ) -> None:
        self.version = version
        self.tensor_names = tensor_names
        self.sink = sink
        self.layout: Layout | None = None
        """Of what is fetched."""
        self.digest = ""
        """Of what arrived, once all did."""
        self.done = 0
        self.received = 0
        """Bytes that came, also those that came twice."""
        self._progress = progress
        self._ranges: list[tuple[int, int]] = []

    def run(self, job: Job, place: Place) -> None:
        """Fetches what is missing; blocks. Raises LayoutError, and what `Job.get` raises."""
        if self.layout is None:
            self._begin(job, place)
        while self._ranges:
            begin, end = self._ranges[0]
            with job.get(place, "GET", begin, end) as answer:
                self._receive(answer)
        if not self.digest:
            self.digest = self.sink.digest()

    def _begin(self, job: Job, place: Place) -> None:
        size = self.version.size_bytes
        header = self._read(job, place, 0, min(_FIRST_BYTES, size))
        needed = header_size(header[:_PREFIX_BYTES], size)
        if needed > len(header):
            header += self._read(job, place, len(header), needed)
        whole = parse(header[:needed], size)
        start = whole.data_offset
        if not self.tensor_names:
            layout, ranges = whole, [(0, whole.data_bytes)]
        else:
            try:
                layout, ranges = whole.select(self.tensor_names)
            except UnknownTensor as error:
                raise errors.TensorNotFound(f"version {self.version.version}: {error}") from error
        self.sink.begin(layout)
        self.layout = layout
        self.done = layout.data_offset
        self._ranges = [(start + begin, start + end) for begin, end in ranges if begin < end]
        surplus = header[needed:]
        if surplus and not self.tensor_names:
            self.sink.write(memoryview(surplus))
            self.done += len(surplus)
            begin, end = self._ranges.pop()
            if begin + len(surplus) < end:
                self._ranges.append((begin + len(surplus), end))

    def _read(self, job: Job, place: Place, begin: int, end: int) -> bytes:
        with job.get(place, "GET", begin, end) as answer:
            data = answer.read()
        self.received += len(data)
        if len(data) != end - begin:
            raise errors.ServerUnavailable("an answer of another length than was asked for")
        return data

    def _receive(self, answer: Answer) -> None:
        """Reads the first of the ranges, and strikes off what came."""
        sink: Any = self.sink
        in_place = hasattr(sink, "window")
        scratch = memoryview(b"" if in_place else bytearray(_PIECE_BYTES))
        begin, end = self._ranges[0]
        if answer.length != end - begin:
            raise errors.ServerUnavailable("an answer of another length than was asked for")
        assert self.layout is not None
        while begin < end:
            limit = min(_PIECE_BYTES, end - begin)
            window = sink.window(limit) if in_place else scratch[:limit]
            count = answer.into(window)
            if not count:
                raise ConnectionError("the answer ended early")
            if in_place:
                sink.advance(count)
            else:
                sink.write(window[:count])
            begin += count
            self._ranges[0] = begin, end
            self.done += count
            self.received += count
            if self._progress is not None:
                self._progress(self.done, self.layout.total_bytes)
        self._ranges.pop(0)


async def _problem(connection: Connection, fetch: Fetch) -> str:
    """What is wrong with the bytes that came; "" where nothing is."""
    expected = fetch.version.digest
    if fetch.tensor_names:
        assert fetch.layout is not None
        digests = await _tensor_digests(connection, fetch.version.name)
        expected = version_digest(
            (entry.name, entry.dtype, entry.shape, digests.get(entry.name, ""))
            for entry in fetch.layout.tensors
        )
    if fetch.digest == expected:
        return ""
    return f"the received tensors have digest {fetch.digest}, not {expected}"


async def _tensor_digests(connection: Connection, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    token = ""
    while True:
        request = pb.ListTensorsRequest(name=name, page_token=token)
        page = await connection.call(_STUB, "ListTensors", request)
        found.update((tensor.name, tensor.digest) for tensor in page.tensors)
        token = page.next_page_token
        if not token:
            return found
