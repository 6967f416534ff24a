"""One version on its way over HTTP: which bytes are still missing, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync_client import errors
from sync_client.http_answer import Answer
from sync_client.http_wire import Job, Place
from sync_client.transfer import Progress, Sink
from weightsync.layout import Layout, UnknownTensor, header_size, parse
from weightsync.v1 import weights_pb2 as pb

_PREFIX_BYTES = 8
_FIRST_BYTES = 64 << 10  # the header, of all but the largest models
_PIECE_BYTES = 1 << 20  # what is hashed is still in the processor's cache then


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

    @property
    def over(self) -> bool:
        """Whether all of it came."""
        return self.layout is not None and not self._ranges

    def run(self, job: Job, place: Place, limit: int | None = None) -> None:
        """Fetches what is missing, or the next `limit` bytes of it; blocks.

        Raises LayoutError, and what `Job.get` and the sink raise.
        """
        if self.layout is None:
            self._begin(job, place)
        while self._ranges:
            begin, end = self._ranges[0]
            stop = end if limit is None else min(end, begin + limit)
            with job.get(place, "GET", begin, stop) as answer:
                self._receive(answer, stop)
            if limit is not None:
                break
        if self.over and not self.digest:
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

    def _receive(self, answer: Answer, stop: int) -> None:
        """Reads the first of the ranges up to byte `stop`, and strikes off what came."""
        sink: Any = self.sink
        in_place = hasattr(sink, "window")
        scratch = memoryview(b"" if in_place else bytearray(_PIECE_BYTES))
        begin, end = self._ranges[0]
        if answer.length != stop - begin:
            raise errors.ServerUnavailable("an answer of another length than was asked for")
        assert self.layout is not None
        while begin < stop:
            limit = min(_PIECE_BYTES, stop - begin)
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
        if begin == end:
            self._ranges.pop(0)
