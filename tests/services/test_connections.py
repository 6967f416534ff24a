"""What holds connections together: pings, slow links, refusals in the middle of a stream."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import torch

from sync_client import AsyncSyncClient, SyncClient, errors
from tests.servers import ServerProcess

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ACK = 1


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def _read_frame(connection: socket.socket) -> tuple[int, int, bytes]:
    head = b""
    while len(head) < 9:
        head += connection.recv(9 - len(head))
        assert head, "the server hung up"
    size = int.from_bytes(head[:3], "big")
    payload = b""
    while len(payload) < size:
        payload += connection.recv(size - len(payload))
    return head[3], head[4], payload


def _pause(connection: socket.socket, seconds: float) -> None:
    """Reads for so long; the server has nothing to say but its settings."""
    before = connection.gettimeout()
    connection.settimeout(seconds)
    try:
        while True:
            assert _read_frame(connection)[0] != _GOAWAY
    except TimeoutError:
        connection.settimeout(before)


def test_pings_of_a_parked_client_are_welcome(server: ServerProcess) -> None:
    """The SDK pings every 10 s; gRPC's own default allows one in 5 minutes, and then hangs up."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, b"") + _frame(_SETTINGS, _ACK, b""))
        for number in range(5):
            _pause(connection, 1.1)
            connection.sendall(_frame(_PING, 0, bytes([number] * 8)))
            while (answer := _read_frame(connection))[0] != _PING:
                assert answer[0] != _GOAWAY, answer
            assert answer == (_PING, _ACK, bytes([number] * 8))


def test_a_refusal_in_the_middle_of_an_upload_keeps_its_reason(client: SyncClient) -> None:
    """grpc.aio loses one in twenty of them: the write that fails overtakes the status."""
    client.push({"weight": torch.zeros(300_000)}, version=1)
    others = {"weight": torch.ones(300_000)}
    for _ in range(150):
        with pytest.raises(errors.VersionExists):
            client.push(others, version=1)


@asynccontextmanager
async def _far_away(server: ServerProcess, delay: float) -> AsyncIterator[tuple[str, list[int]]]:
    """The server's address with `delay` seconds more each way, and a list of the connections."""
    host, _, port = server.address.rpartition(":")
    seen: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(65536):
                loop.call_later(delay, sink.write, data)
        finally:
            loop.call_later(delay, sink.close)

    async def join(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        seen.append(len(seen))
        there, back = await asyncio.open_connection(host, int(port))
        for work in (pump(source, back), pump(there, sink)):
            tasks.add(asyncio.ensure_future(work))

    listener = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", seen
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(2 * delay)  # what is on its way arrives before the loop ends


async def test_a_server_far_away_is_reached_at_once(server: ServerProcess) -> None:
    async with _far_away(server, 0.3) as (address, connections):
        async with AsyncSyncClient(address, run="far-away", retry_for=10) as client:
            with pytest.raises(errors.RunNotFound):
                await client.status()
        assert connections == [0], "one connection, not one for each attempt that was cut short"
