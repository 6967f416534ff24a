"""The real server in this process, with a clock of the test's own, and a plain gRPC client.

gRPC, SQLite, files and event loop are the real ones; only time is injected, so that a lease of
ten seconds runs out in a moment. The client uses the generated classes alone, none of the SDK.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from safetensors.numpy import save

from sync_server.config import load
from sync_server.domain.leases import Instant
from sync_server.server import Server
from weightsync.digests import tensor_digest, version_digest
from weightsync.error_details import TRAILER_KEY, decode_status
from weightsync.v1 import (
    runs_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
    workers_pb2_grpc,
)

_TIMEOUT = 20.0


class HandClock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0

    def __call__(self) -> Instant:
        return Instant(self._now, self._now)

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self._now += seconds


class LiveServer:
    """A server on a thread; `run_ids` gives names that no history used yet."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.clock = HandClock()
        self.run_ids = (f"run-{number}" for number in itertools.count())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        arguments = {"listen": "127.0.0.1:0", "data_dir": directory, "keep_versions": keep}
        settings = load(None, {**arguments, "shutdown_grace": 0})
        self._server = Server(settings, self.clock)
        self.address = self._do(self._server.start()).grpc

    def advance(self, seconds: float) -> None:
        """Time passes, and the server has looked at its leases."""
        self.clock.advance(seconds)
        self._do(self._server.coordinator.expire_leases())

    def stop(self) -> None:
        """Stops the server and its thread."""
        self._do(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT)


class Client:
    """Generated stubs; errors as reason codes."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.runs = runs_pb2_grpc.RunServiceStub(self.channel)
        self.workers = workers_pb2_grpc.WorkerServiceStub(self.channel)
        self.weights = weights_pb2_grpc.WeightServiceStub(self.channel)

    def call(self, method: Any, request: Any) -> tuple[str, Any]:
        """("OK", response) or (reason, None)."""
        try:
            return "OK", method(request, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            return reason_of(error), None

    def push(self, header: weights_pb2.UploadWeightsHeader, content: int) -> str:
        """Uploads one of a few small files; the reason, or OK."""
        header.size_bytes = len(FILES[content])
        header.digest = DIGESTS[content]
        return self.call(self.weights.UploadWeights, _messages(header, FILES[content]))[0]

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()


def reason_of(error: Any) -> str:
    """The reason code of a refused call."""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER_KEY:
            details = decode_status(value)[2]
            assert details is not None, error
            return details.reason
    raise AssertionError(f"an error without details: {error}")


def finished(call: Any, seconds: float = _TIMEOUT) -> Any:
    """The response of a call that is expected to end now."""
    end = time.monotonic() + seconds
    return call.result(timeout=max(0.0, end - time.monotonic()))


def _messages(
    header: weights_pb2.UploadWeightsHeader, data: bytes
) -> Iterator[weights_pb2.UploadWeightsRequest]:
    yield weights_pb2.UploadWeightsRequest(header=header)
    yield weights_pb2.UploadWeightsRequest(chunk=data)


def _digest(value: int) -> str:
    tensor = np.array([value], dtype=np.int32)
    return version_digest([("w", "I32", (1,), tensor_digest(tensor.tobytes()))])


FILES = [save({"w": np.array([value], dtype=np.int32)}) for value in range(4)]
DIGESTS = [_digest(value) for value in range(4)]
