"""A server as a process: signals, the ready file, and a server that ends with its job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

from sync_server.config import ServerSettings
from sync_server.lifetime import unlocked
from sync_server.listener import StartError
from sync_server.server import Endpoints, Server


async def serve(
    settings: ServerSettings, ready_file: Path | None, while_locked: Path | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, or until nobody holds a lock on the file `while_locked`.

    Raises StartError.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(settings)
    endpoints = await server.start()
    try:
        if ready_file is not None:
            write_ready_file(ready_file, endpoints)
        ends: list[asyncio.Future[object]] = [
            asyncio.ensure_future(event.wait()) for event in (stopping, server.failed)
        ]
        if while_locked is not None:
            # The lock is held until this process ends: who comes now waits for its end.
            ends.append(asyncio.ensure_future(unlocked(while_locked)))
        ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ended)
    finally:
        await server.stop()
    if server.failed.is_set():
        raise StartError("the port was lost and can't be had again")


def write_ready_file(path: Path, endpoints: Endpoints) -> None:
    """Writes the file whole: who sees it sees all of it. Raises StartError."""
    content = {
        "grpc": endpoints.grpc,
        "http": endpoints.http,
        "metrics": endpoints.metrics,
        "pid": os.getpid(),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StartError(f"can't write the ready file {path}: {error.strerror}") from error
