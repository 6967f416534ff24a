"""A TCP proxy that misbehaves on request: it cuts, flips bits, drips, delays, and falls silent.

It stands between a real client and a real server and knows nothing of what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
"""Up is to the server, down to the client."""

_READ_BYTES = 64 << 10


@dataclass
class Way:
    """One direction of all connections. Counts are in bytes since `arm`, or since the last cut."""

    passed: int = 0
    cut_after: list[int] = field(default_factory=list)
    flip_at: int | None = None
    flip_in: bytes = b""
    drip_bytes: int = _READ_BYTES
    delay: float = 0.0
    cuts: int = 0
    flips: int = 0
    total: int = 0
    """Bytes since `arm`, whatever was cut."""


@dataclass
class FaultProxy:
    """A proxy on a thread of its own. Set faults with `arm`; `calm` takes them all back."""

    upstream: str
    address: str = ""
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def arm(
        self,
        direction: Direction,
        *,
        cut_after: Iterable[int] = (),
        flip_at: int | None = None,
        flip_in: bytes = b"",
        drip_bytes: int = _READ_BYTES,
        delay: float = 0.0,
    ) -> Way:
        """From now on, in that direction: end all connections after so many bytes, and again after
        the next number of them; flip a bit of byte `flip_at`, or in each piece of the stream that
        has `flip_in`; pass at most `drip_bytes` at a time, `delay` seconds apart.
        """
        way = Way(0, list(cut_after), flip_at, flip_in, drip_bytes, delay)
        setattr(self, direction, way)
        return way

    def calm(self) -> None:
        """No faults any more."""
        self.arm("up")
        self.arm("down")
        self.speak()

    def hush(self) -> None:
        """Nothing passes any more, and no connection ends: what a silent network looks like."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def speak(self) -> None:
        """What was held back passes."""
        self._loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Ends all connections now."""
        self._loop.call_soon_threadsafe(self._cut)

    def start(self) -> None:
        """Listens on a free port."""
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        """Ends all connections and the thread."""
        self.cut()
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._open, self._done = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._ready.set()
        await self._done.wait()
        server.close()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.upstream.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, "up"), self._pump(far_reader, writer, "down")
            )
        except asyncio.CancelledError:
            pass  # the end of the proxy; asyncio.streams would log it as an error
        finally:
            for one in (writer, far_writer):
                self._writers.discard(one)
                one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(getattr(self, direction).drip_bytes):
                way: Way = getattr(self, direction)  # as it is now: `arm` may have come meanwhile
                if way.delay:
                    await asyncio.sleep(way.delay)
                await self._open.wait()
                data = self._flipped(way, data)
                end = way.passed + len(data)
                if way.cut_after and end >= way.cut_after[0]:
                    way.total += way.cut_after[0] - way.passed
                    writer.write(data[: way.cut_after.pop(0) - way.passed])
                    way.passed = 0
                    way.cuts += 1
                    self._cut()
                    return
                way.passed = end
                way.total += len(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    def _flipped(self, way: Way, data: bytes) -> bytes:
        places = []
        if way.flip_at is not None and way.passed <= way.flip_at < way.passed + len(data):
            places.append(way.flip_at - way.passed)
            way.flip_at = None
        if way.flip_in and (at := data.find(way.flip_in)) >= 0:
            places.append(at + len(way.flip_in) // 2)
        if not places:
            return data
        changed = bytearray(data)
        for place in places:
            changed[place] ^= 1 << (way.passed + place) % 8
        way.flips += len(places)
        return bytes(changed)

    def _cut(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):  # with a reset, as when a machine dies
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy to `upstream` ("host:port") while the block runs."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
