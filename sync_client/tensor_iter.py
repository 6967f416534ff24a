"""A version tensor by tensor, for engines whose `load_weights` takes an iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence

import torch

from sync_client import errors
from sync_client.connection import Connection
from sync_client.http_pull import iter_http
from sync_client.tensor_memory import from_bytes, memory_view, torch_type
from sync_client.transfer import WORTH_A_PLAN, Incoming
from sync_client.types import TensorInfo
from weightsync.digests import StreamDigester
from weightsync.frames import FrameError
from weightsync.layout import Layout, LayoutError, TensorEntry


class _TensorSink:
    """Cuts the data section into tensors; each goes to `out` when its bytes are verified."""

    def __init__(self, expected: dict[str, str]) -> None:
        self._expected = expected
        self.complete: deque[tuple[str, torch.Tensor]] = deque()

    def begin(self, layout: Layout) -> None:
        """Starts."""
        self._layout = layout
        self._digester = StreamDigester(layout)
        self._index = 0
        self._advance()

    def write(self, data: memoryview) -> None:
        """The next bytes. Raises DigestMismatch."""
        while data:
            entry = self._layout.tensors[self._index]
            part = data[: entry.nbytes - self._filled]
            self._view[self._filled : self._filled + len(part)] = part
            self._digester.update(part)  # now, while it is in the processor's cache
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == entry.nbytes:
                self._finish(entry)
                self._advance()

    def digest(self) -> str:
        """The version digest of what came."""
        return self._digester.version_digest()

    def _advance(self) -> None:
        """Makes room for the next tensor that has bytes; empty ones are complete at once."""
        while self._index < len(self._layout.tensors):
            entry = self._layout.tensors[self._index]
            # Not a bytearray: that would write zeros first.
            self._memory = torch.empty(entry.nbytes, dtype=torch.uint8)
            self._view = memory_view(self._memory)
            self._filled = 0
            if entry.nbytes:
                return
            self._finish(entry)

    def _finish(self, entry: TensorEntry) -> None:
        if self._digester.tensor_digest(entry.name) != self._expected.get(entry.name):
            raise errors.DigestMismatch(f"tensor {entry.name!r} came damaged")
        dtype, shape = torch_type(entry.name, entry.dtype, entry.shape)
        self.complete.append((entry.name, from_bytes(self._memory, dtype, shape)))
        self._index += 1


async def iter_tensors(
    connection: Connection, name: str, tensor_names: Sequence[str], infos: Sequence[TensorInfo]
) -> AsyncIterator[tuple[str, torch.Tensor]]:
    """(name, tensor) in the order of the bytes; in memory are the one that arrives, and what of the
    next ones comes along with it (16 MiB at most).

    Raises DigestMismatch before a damaged tensor would be given out, ServerUnavailable and the
    like. The server waits while the consumer is busy.
    """
    expected = {info.name: info.digest for info in infos}
    sink = _TensorSink(expected)
    given = False
    try:
        size = sum(info.size for info in infos)
        if size > WORTH_A_PLAN:
            async for _ in iter_http(connection, name, tensor_names, sink):
                given = True
                while sink.complete:
                    yield sink.complete.popleft()
        if given:
            return
        incoming = Incoming(sink)
        async for _ in incoming.receive(connection, name, tensor_names):
            while sink.complete:
                yield sink.complete.popleft()
    except (LayoutError, FrameError) as error:
        raise errors.DigestMismatch(f"{name}: the received stream is damaged: {error}") from error
