"""The bulk port: accepts connections and gives each a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import structlog

from sync_server.bulk.exchange import Exchange, Parts

_log = structlog.get_logger(__name__)
_BACKLOG = 128
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_LOOK_SECONDS = 0.02
_END_SECONDS = 5.0


class BulkPort:
    """Listens from `start` to `stop`."""

    def __init__(self, host: str, port: int, parts: Parts, max_connections: int) -> None:
        """Binds at once. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        bound: int = self._listener.getsockname()[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        self._parts = parts
        self._limit = max_connections
        self._exchanges: dict[Exchange, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._accepting = threading.Thread(
            target=self._accept, name="weightsync-bulk-accept", daemon=True
        )

    def start(self) -> None:
        """Begins to accept."""
        self._accepting.start()

    async def stop(self, grace: float) -> None:
        """No new connections; those that move bytes may go on for `grace` seconds."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        await asyncio.to_thread(self._end, grace)

    def _end(self, grace: float) -> None:
        end = time.monotonic() + grace
        while time.monotonic() < end and any(exchange.busy for exchange in self._all()):
            time.sleep(_LOOK_SECONDS)
        for exchange in self._all():
            exchange.stop()
        end = time.monotonic() + _END_SECONDS
        while time.monotonic() < end and self._all():
            time.sleep(_LOOK_SECONDS)

    def _all(self) -> list[Exchange]:
        with self._lock:
            return list(self._exchanges)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                # Out of descriptors, or the client went in between: others are served on.
                _log.warning("the bulk port could not accept", error=str(error))
                time.sleep(_LOOK_SECONDS)
                continue
            exchange = Exchange(sock, self._parts)
            with self._lock:
                full = len(self._exchanges) >= self._limit
                if not full:
                    thread = threading.Thread(
                        target=self._run, args=(exchange,), name="weightsync-bulk", daemon=True
                    )
                    self._exchanges[exchange] = thread
            if full or not self._started(exchange, thread):
                with contextlib.suppress(OSError), sock:
                    sock.setblocking(False)
                    sock.send(_BUSY)

    def _started(self, exchange: Exchange, thread: threading.Thread) -> bool:
        try:
            thread.start()
        except RuntimeError as error:  # no memory, or too many of them: others are served on
            _log.warning("the bulk port could not start a thread", error=str(error))
            with self._lock:
                self._exchanges.pop(exchange, None)
            return False
        return True

    def _run(self, exchange: Exchange) -> None:
        try:
            exchange.run()
        finally:
            with self._lock:
                self._exchanges.pop(exchange, None)
