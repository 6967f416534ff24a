"""Arrow Flight: a server process that holds the last state dict as record batches. Needs pyarrow.

Batches have one column of bytes and up to 1 MiB, cut from tensor memory without a copy. What is
pulled is copied from the batches into the explorer's tensors. Nothing is checked.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.processes import Service
from sync_client.tensors import StateDictSource

_BATCH_BYTES = 1 << 20
_HEADER = b"safetensors header"
_PATH = b"weights"
_START_SECONDS = 30.0


@contextmanager
def running(size_bytes: int, explorers: int) -> Iterator[Service]:
    """The server as a process of its own. Raises RuntimeError where it does not start."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if process.pid is None or not ours.poll(_START_SECONDS):
            raise RuntimeError("the Flight server did not start")
        yield Service(f"grpc://127.0.0.1:{ours.recv()}", (process.pid,))
    except EOFError as error:
        raise RuntimeError("the Flight server did not start") from error
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection) -> None:
    pa, flight = _arrow()
    held: dict[bytes, Any] = {}

    def do_put(self: Any, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        held[descriptor.path[0]] = pa.Table.from_batches(
            [chunk.data for chunk in reader], schema=reader.schema
        )

    def do_get(self: Any, context: Any, ticket: Any) -> Any:
        return flight.RecordBatchStream(held[ticket.ticket])

    # `type` and not `class`: pyarrow has to be imported first, and not by whoever imports this.
    server: Any = type("_Server", (flight.FlightServerBase,), {"do_put": do_put, "do_get": do_get})(
        "grpc://127.0.0.1:0"
    )
    pipe.send(server.port)
    server.serve()


class _FlightLink:
    def __init__(self, address: str) -> None:
        self._pa, self._flight = _arrow()
        self._client = self._flight.connect(address)

    def push(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        pa = self._pa
        header, *views = StateDictSource(state_dict).segments()
        schema = pa.schema([("bytes", pa.uint8())], metadata={_HEADER: bytes(header)})
        descriptor = self._flight.FlightDescriptor.for_path(_PATH)
        writer, _ = self._client.do_put(descriptor, schema)
        for view in views:
            for position in range(0, len(view), _BATCH_BYTES):
                piece = view[position : position + _BATCH_BYTES]
                buffers = [None, pa.py_buffer(piece)]
                column = pa.Array.from_buffers(pa.uint8(), len(piece), buffers)
                writer.write_batch(pa.record_batch([column], schema=schema))
        writer.close()  # waits for the server's answer

    def pull(self, into: Mapping[str, torch.Tensor]) -> None:
        header, *views = StateDictSource(into).segments()
        reader = self._client.do_get(self._flight.Ticket(_PATH))
        if reader.schema.metadata[_HEADER] != header:
            raise RuntimeError("Flight gave other tensors than the explorer has")
        targets = iter(views)
        target = memoryview(b"")
        for chunk in reader:
            column = chunk.data.column(0)
            piece = memoryview(column.buffers()[1]).cast("B")[column.offset :][: len(column)]
            while piece:
                target = target or next(targets)
                count = min(len(target), len(piece))
                target[:count] = piece[:count]
                target, piece = target[count:], piece[count:]
        if target or next(targets, None) is not None:
            raise RuntimeError("Flight gave fewer bytes than the explorer has")

    def close(self) -> None:
        self._client.close()


def connect(address: str) -> _FlightLink:
    """A peer's end."""
    return _FlightLink(address)


def _arrow() -> tuple[Any, Any]:
    return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.flight")
