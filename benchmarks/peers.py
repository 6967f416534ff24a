"""The two processes beside the server: a trainer that sends and an explorer that receives.

Each is a fresh interpreter that does what it is told over a pipe, one thing at a time, and holds
its tensors all the while: what is timed is the transfer, never the making of memory.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from benchmarks import model, plain_socket
from sync_client import SyncClient
from sync_client.tensors import StateDictSource

_JOIN_SECONDS = 10.0
Timed = tuple[float, float]
"""(wall seconds, CPU seconds of this process) of one transfer."""


class _Trainer:
    def __init__(self, address: str, size_bytes: int, *, fresh: bool) -> None:
        self._state_dict = model.make_state_dict(size_bytes)
        if not fresh:
            model.work(self._state_dict)
        self._client = SyncClient(address)
        self._worker = self._client.register("trainer")
        self._socket: socket.socket | None = None

    def total_bytes(self) -> int:
        return model.total_bytes(self._state_dict)

    def connect(self, port: int) -> None:
        self._socket = plain_socket.connect(port)

    def send(self) -> Timed:
        assert self._socket is not None
        # The same bytes from the same memory as a push: the safetensors header, then the tensors.
        views = list(StateDictSource(self._state_dict).segments())
        cpu = time.process_time()
        wall = plain_socket.send(self._socket, views)
        return wall, time.process_time() - cpu

    def push(self, version: int, transport: str) -> tuple[Timed, str]:
        model.train(self._state_dict)
        wall, cpu = time.perf_counter(), time.process_time()
        info = self._worker.push(self._state_dict, version=version, transport=transport)
        return (time.perf_counter() - wall, time.process_time() - cpu), info.digest

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._client.close()


class _Explorer:
    def __init__(self, address: str, size_bytes: int, *, fresh: bool) -> None:
        self._state_dict = model.make_state_dict(size_bytes, seed=1)
        if not fresh:
            model.work(self._state_dict)
        stream = StateDictSource(self._state_dict).layout.total_bytes
        self._buffer = memoryview(bytearray(b"\x01") * stream)  # written, so its pages are there
        self._client = SyncClient(address)
        self._worker = self._client.register("explorer")
        self._listener = plain_socket.listen()
        self._socket: socket.socket | None = None

    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def accept(self) -> None:
        self._socket, _ = self._listener.accept()

    def receive(self) -> Timed:
        assert self._socket is not None
        wall, cpu = time.perf_counter(), time.process_time()
        plain_socket.receive(self._socket, self._buffer)
        return time.perf_counter() - wall, time.process_time() - cpu

    def pull(self, version: int, transport: str) -> tuple[Timed, str]:
        wall, cpu = time.perf_counter(), time.process_time()
        pulled = self._worker.pull(version, into=self._state_dict, transport=transport)
        return (time.perf_counter() - wall, time.process_time() - cpu), pulled.digest

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._listener.close()
        self._client.close()


_KINDS: dict[str, Callable[..., Any]] = {"trainer": _Trainer, "explorer": _Explorer}


class Peer:
    """A handle on a peer process; `with` ends it.

    kind: "trainer" or "explorer". address: the server. fresh: it has done no work before.
    """

    def __init__(self, kind: str, address: str, size_bytes: int, *, fresh: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(theirs, kind, address, size_bytes, fresh), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()  # ends its loop
        self._process.join(_JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def start(self, method: str, *arguments: object) -> None:
        """Tells it to do something; `result` waits for it."""
        self._pipe.send((method, arguments))

    def result(self) -> Any:
        """What came of the last `start`. Raises RuntimeError with the peer's traceback."""
        try:
            failure, value = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a peer process ended early") from error
        if failure:
            raise RuntimeError(f"a peer process failed:\n{failure}")
        return value

    def call(self, method: str, *arguments: object) -> Any:
        """`start`, then `result`."""
        self.start(method, *arguments)
        return self.result()


def _main(pipe: Connection, kind: str, address: str, size_bytes: int, fresh: bool) -> None:
    torch.set_num_threads(1)
    peer = _KINDS[kind](address, size_bytes, fresh=fresh)
    try:
        while True:
            try:
                method, arguments = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send(("", getattr(peer, method)(*arguments)))
            except Exception:  # noqa: BLE001 - whatever it is, the parent has to hear of it
                pipe.send((traceback.format_exc(), None))
    finally:
        peer.close()
