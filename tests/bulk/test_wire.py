"""A connection's socket: heads that come in pieces, too slowly, or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync_server.bulk import wire
from sync_server.bulk.messages import MAX_HEAD_BYTES
from sync_server.bulk.pace import TooSlow
from sync_server.bulk.wire import HeadTooLong, Wire

STALL_SECONDS = 0.2
_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    """The server's side and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.settimeout(10)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        made = Wire(accepted, STALL_SECONDS)
        with contextlib.closing(made):
            yield made, client


def test_heads_in_any_pieces(pair: tuple[Wire, socket.socket]) -> None:
    served, client = pair
    for size in (1, 2, 3, 7, len(_HEAD), 3 * len(_HEAD)):
        sender = threading.Thread(target=_send_in_pieces, args=(client, _HEAD * 3, size))
        sender.start()
        assert [served.read_head() for _ in range(3)] == [_HEAD] * 3
        sender.join()
    client.close()
    assert served.read_head() is None


def _send_in_pieces(client: socket.socket, data: bytes, size: int) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for begin in range(0, len(data), size):
        client.sendall(data[begin : begin + size])


def test_a_head_without_an_end(pair: tuple[Wire, socket.socket]) -> None:
    served, client = pair
    client.sendall(b"x" * (MAX_HEAD_BYTES + 1))
    with pytest.raises(HeadTooLong):
        served.read_head()


def test_who_says_nothing_is_let_go(
    pair: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_IDLE_SECONDS", 0.3)
    began = time.monotonic()
    assert pair[0].read_head() is None
    assert 0.25 < time.monotonic() - began < 5.0


def test_a_head_that_drips_is_cut(
    pair: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However steadily it drips: it is the whole head that has a time."""
    monkeypatch.setattr(wire, "_HEAD_SECONDS", 0.4)
    served, client = pair
    done = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not done.is_set():
                client.sendall(b"x")
                done.wait(0.02)

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        began = time.monotonic()
        assert served.read_head() is None
        assert 0.35 < time.monotonic() - began < 5.0
    finally:
        done.set()
        dripping.join()


def test_who_takes_nothing_is_cut(pair: tuple[Wire, socket.socket], tmp_path: Path) -> None:
    served, client = pair
    client.sendall(_HEAD)
    assert served.read_head() == _HEAD
    data = bytes(16 << 20)
    file = tmp_path / "file"
    file.write_bytes(data)
    with file.open("rb") as opened, pytest.raises(TooSlow):
        served.send_file(opened.fileno(), 0, len(data))
    with pytest.raises(TooSlow):
        served.send_view(memoryview(data))
    with pytest.raises(TooSlow):
        served.send(data)


@pytest.mark.parametrize("begin", [0, 1, 4095, 10_000_000])
def test_a_file_and_a_view_give_the_same(
    pair: tuple[Wire, socket.socket], tmp_path: Path, begin: int
) -> None:
    served, client = pair
    data = bytes(range(256)) * (40 << 10)
    file = tmp_path / "file"
    file.write_bytes(data)
    found = bytearray()

    def read() -> None:
        while part := client.recv(1 << 20):
            found.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with file.open("rb") as opened:
        served.send_file(opened.fileno(), begin, len(data))
    served.send_view(memoryview(data)[begin:])
    served.interrupt()
    reader.join()
    assert found == data[begin:] * 2


def test_a_file_that_became_shorter_is_no_silent_end(
    pair: tuple[Wire, socket.socket], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    with file.open("rb") as opened, pytest.raises(ConnectionError, match="early"):
        pair[0].send_file(opened.fileno(), 0, 101)
