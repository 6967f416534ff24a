"""Handles on the processes beside the service: a trainer that sends, explorers that receive.

Each is a fresh interpreter that does what it is told over a pipe, one thing at a time.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from benchmarks.roles import Explorer, Trainer

_JOIN_SECONDS = 10.0
_KINDS: dict[str, Callable[..., Any]] = {"trainer": Trainer, "explorer": Explorer}


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
        assert self._process.pid is not None
        self.pid = self._process.pid

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
