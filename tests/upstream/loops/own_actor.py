"""Upstream's own Synchronizer in a process of its own, and as much of Ray as reaches it.

This is the reference: the same loops, with the same engines, over the actor that they were
written for. `RAY` names what a module called ray takes from here. With our `install()` none of
it is called.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import inspect
import itertools
import os
import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

RAY = ("get", "get_actor", "get_runtime_context", "init", "remote")


class RayActorError(Exception):
    """Upstream expects it of modules that are gone."""


# --- the side of those who call ---


class Ref:
    """A reference to what a call will give: to be awaited, or for `get`."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self.future = future

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self.future).__await__()


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """`ray.get`: of one reference or of a list."""
    if isinstance(refs, list):
        return [get(ref, timeout=timeout) for ref in refs]
    return refs.future.result(timeout)


class ActorHandle:
    """A handle of the actor of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "get_model_state_dict_iterator":
            return SimpleNamespace(remote=functools.partial(self._items, name))
        return SimpleNamespace(remote=functools.partial(self._call, name))

    def _call(self, name: str, *arguments: Any, **named: Any) -> Ref:
        return Ref(_link().call((self._namespace, name, arguments, named)))

    def _items(self, name: str) -> Iterator[Ref]:
        for item in get(self._call(name)):
            done: concurrent.futures.Future[Any] = concurrent.futures.Future()
            done.set_result(item)
            yield Ref(done)


def remote(cls: type) -> Any:
    """`ray.remote(Synchronizer).options(...).remote(config, module_ref=...)`."""

    def create(config: Any, module_ref: Any) -> ActorHandle:
        handle = ActorHandle(config.ray_namespace)
        handle.create.remote(config)
        return handle

    return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=create))


def get_actor(name: str, namespace: str) -> ActorHandle:
    """`ray.get_actor("synchronizer", namespace=...)`."""
    return ActorHandle(namespace)


def get_runtime_context() -> SimpleNamespace:
    """Of which upstream wants to know who it is."""
    return SimpleNamespace(current_actor=f"process {os.getpid()}")


def init(**arguments: object) -> None:
    """There is nothing to start."""


class _Link:
    """This process' connection, on a thread of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._writer = asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()

    def call(self, request: Any) -> concurrent.futures.Future[Any]:
        """Sends it; calls arrive in the order in which they were made."""
        return asyncio.run_coroutine_threadsafe(self._call(request), self._loop)

    async def _connect(self) -> asyncio.StreamWriter:
        host, _, port = self._address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._reading = self._loop.create_task(self._read(reader))
        return writer

    async def _call(self, request: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = answer = self._loop.create_future()
        _send(self._writer, (number, request))
        return await answer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            number, failed, value = await _receive(reader)
            answer = self._answers.pop(number)
            if failed:
                answer.set_exception(value)
            else:
                answer.set_result(value)


@functools.cache
def _link() -> _Link:
    return _Link(os.environ["LOOPS_OWN_ACTOR"])


def _send(writer: asyncio.StreamWriter, message: Any) -> None:
    data = pickle.dumps(message)
    writer.write(len(data).to_bytes(8, "big") + data)


async def _receive(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(8), "big")
    return pickle.loads(await reader.readexactly(size))


# --- the actor's side ---


class _Module:
    """A trainer or an explorer, as far as upstream's `_check_modules` asks: alive."""

    def __init__(self) -> None:
        async def alive() -> bool:
            return True

        self.is_alive = SimpleNamespace(remote=alive)


class _Actors:
    """One Synchronizer for each namespace."""

    def __init__(self) -> None:
        preloaded = importlib.import_module("tests.upstream.loops.preloaded")
        self._class: Callable[..., Any] = preloaded.Synchronizer
        self._actors: dict[str, Any] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One process' calls."""
        try:
            while True:
                number, request = await _receive(reader)
                task = asyncio.create_task(self._answer(writer, number, *request))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(
        self,
        writer: asyncio.StreamWriter,
        number: int,
        namespace: str,
        name: str,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> None:
        try:
            value = await self._do(namespace, name, arguments, named)
        except Exception as error:  # noqa: BLE001 - the caller gets it, as from Ray
            _send(writer, (number, True, error))
        else:
            _send(writer, (number, False, value))

    async def _do(
        self, namespace: str, name: str, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if name == "create":
            if namespace not in self._actors:
                self._actors[namespace] = self._class(*arguments, module_ref=_Module())
            return None
        if name == "add_module":  # they are all alive
            return None
        actor = self._actors[namespace]
        if name == "get_explorer_status_counts":  # 0.6.0 has no such method
            return {status.value: count for status, count in actor.explorer_status_counts.items()}
        value = getattr(actor, name)(*arguments, **named)
        if inspect.isgenerator(value):
            return list(value)
        return await value if inspect.isawaitable(value) else value


def main(parent: Connection, log: str) -> None:
    """The process: says its address, and ends when the parent does."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    asyncio.run(_main(parent))


async def _main(parent: Connection) -> None:
    server = await asyncio.start_server(_Actors().serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    parent.send(f"{host}:{port}")
    async with server:
        await asyncio.to_thread(parent.poll, None)
