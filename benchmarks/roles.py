"""Trainer and explorer: every transfer that is measured, as one timed method each.

Both hold their tensors all the while: what is timed is the transfer, never the making of memory.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks import model, plain_socket, rivals
from sync_client import SyncClient
from sync_client.tensors import StateDictSource, state_dict_digest, tensors_from_buffer

Timed = tuple[float, float, float]
"""(begin, end, CPU seconds of this process); begin and end on the clock of the whole machine."""


def timed(work: Callable[[], object]) -> Timed:
    """Runs it. What it gives is freed after the time was taken."""
    begin, cpu = time.monotonic(), time.process_time()
    left = work()
    taken = begin, time.monotonic(), time.process_time() - cpu
    del left
    return taken


class _Role:
    def __init__(self, role: str, address: str, size_bytes: int, *, seed: int, fresh: bool) -> None:
        self._state_dict = model.make_state_dict(size_bytes, seed=seed)
        if not fresh:
            model.work(self._state_dict)
        self._client = SyncClient(address)
        self._worker = self._client.register(role)
        self._socket: socket.socket | None = None
        self._links: dict[str, rivals.Link] = {}

    def join(self, rival: str, address: str) -> None:
        """Connects to a rival's service."""
        self._links[rival] = rivals.connect(rival, address)

    def digest(self) -> str:
        """Of the tensors as they are now. Untimed; the service is not asked."""
        return state_dict_digest(self._state_dict)

    def close(self) -> None:
        """Ends every connection."""
        for link in self._links.values():
            link.close()
        if self._socket is not None:
            self._socket.close()
        self._client.close()


class Trainer(_Role):
    """Sends."""

    def __init__(self, address: str, size_bytes: int, *, fresh: bool) -> None:
        super().__init__("trainer", address, size_bytes, seed=0, fresh=fresh)

    def total_bytes(self) -> int:
        """The bytes of the state dict."""
        return model.total_bytes(self._state_dict)

    def connect(self, port: int) -> None:
        """The plain socket."""
        self._socket = plain_socket.connect(port)

    def send(self) -> Timed:
        """Over the plain socket, until the receiver has the last byte."""
        connection = self._socket
        assert connection is not None
        # The same bytes from the same memory as a push: the safetensors header, then the tensors.
        views = list(StateDictSource(self._state_dict).segments())
        return timed(lambda: plain_socket.send(connection, views))

    def push(self, version: int, transport: str) -> Timed:
        """New weights through weightsync; their digest is a part of it."""
        model.train(self._state_dict)
        return timed(
            lambda: self._worker.push(self._state_dict, version=version, transport=transport)
        )

    def push_to(self, rival: str) -> Timed:
        """New weights through a rival."""
        model.train(self._state_dict)
        return timed(lambda: self._links[rival].push(self._state_dict))


class Explorer(_Role):
    """Receives."""

    def __init__(self, address: str, size_bytes: int, *, fresh: bool) -> None:
        super().__init__("explorer", address, size_bytes, seed=1, fresh=fresh)
        self._listener: socket.socket | None = None
        self._buffer = bytearray()
        self._mapped: Mapping[str, torch.Tensor] = {}

    def listen(self) -> int:
        """Makes the buffer of the references; the port of the plain socket."""
        stream = StateDictSource(self._state_dict).layout.total_bytes
        self._buffer = bytearray(b"\x01") * stream  # written, so its pages are there
        self._listener = plain_socket.listen()
        return int(self._listener.getsockname()[1])

    def accept(self) -> None:
        """The other end of `Trainer.connect`."""
        assert self._listener is not None
        self._socket, _ = self._listener.accept()

    def receive(self) -> Timed:
        """From the plain socket into the buffer."""
        connection = self._socket
        assert connection is not None
        return timed(lambda: plain_socket.receive(connection, memoryview(self._buffer)))

    def memcpy(self) -> Timed:
        """Every tensor into the buffer, by one thread: as many bytes as a pull, warm memory."""
        copies = tensors_from_buffer(self._buffer, StateDictSource(self._state_dict).layout)
        return timed(lambda: [copies[k].copy_(tensor) for k, tensor in self._state_dict.items()])

    def pull(self, version: int, transport: str) -> Timed:
        """Through weightsync into the explorer's tensors; the check is a part of it."""
        return timed(lambda: self._worker.pull(version, into=self._state_dict, transport=transport))

    def map(self, version: int) -> Timed:
        """A mapped pull, until its tensors can be used; `mapped_digest` lets go of them."""

        def pull() -> None:
            self._mapped = self._worker.pull(version, transport="shared-memory").state_dict

        return timed(pull)

    def mapped_digest(self) -> str:
        """Of the tensors that `map` gave. Untimed."""
        try:
            return state_dict_digest(self._mapped)
        finally:
            self._mapped = {}

    def pull_from(self, rival: str) -> Timed:
        """Through a rival into the explorer's tensors, unchecked."""
        return timed(lambda: self._links[rival].pull(self._state_dict))

    def close(self) -> None:
        """As of `_Role`, and the listening socket."""
        if self._listener is not None:
            self._listener.close()
        super().close()
