"""Peers of the bulk port that hardly move: they are cut off, and hold up nobody meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import grpc
import psutil
import pytest

from tests.servers import ServerProcess
from tests.services.bulk import (
    MIB,
    SMALL_BUFFER,
    Way,
    ask,
    bulk_server,
    content,
    download_way,
    head,
    open_socket,
    partial_files,
    push,
    rest,
    sockets,
    unharmed,
    upload_way,
    use_it,
)
from tests.services.raw import open_channel
from tests.until import until

STALL_SECONDS = 0.5
SIZE = 24 * MIB  # more than the sockets of both sides hold
RUN = "slow"


@pytest.fixture(scope="module")
def port() -> Iterator[ServerProcess]:
    """A server that loses its patience soon."""
    with bulk_server("--http-stall-seconds", str(STALL_SECONDS)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(port: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC, where the plans come from."""
    with open_channel(port.address) as made:
        yield made


@pytest.fixture(scope="module")
def big(port: ServerProcess, channel: grpc.Channel) -> bytes:
    """The file of version 1, on a server that has been in use."""
    data = push(channel, RUN, 1, SIZE)
    use_it(port, channel, RUN, 4)
    return data


@pytest.fixture
def way(channel: grpc.Channel, big: bytes) -> Way:
    """Where version 1 can be read."""
    del big
    return download_way(channel, RUN, 1)


@pytest.fixture(autouse=True)
def serves_on(port: ServerProcess, way: Way, big: bytes) -> Iterator[None]:
    """After the test it serves as before."""
    with unharmed(port, way, big):
        yield


def test_a_reader_that_stops_is_cut_and_holds_up_nobody(
    port: ServerProcess, way: Way, big: bytes
) -> None:
    with contextlib.ExitStack() as stack:
        stopped = [stack.enter_context(open_socket(way, SMALL_BUFFER)) for _ in range(8)]
        for sock in stopped:
            sock.sendall(head(way, "GET"))
        began = time.monotonic()
        served = 0
        while time.monotonic() < began + STALL_SECONDS:
            assert ask(way, "GET").body == big
            served += 1
        assert served >= 2
        process = psutil.Process(port.pid)
        until(lambda: not sockets(process, way), timeout=5.0)
        assert time.monotonic() - began < 10 * STALL_SECONDS
        for sock in stopped:
            assert len(rest(sock)) < len(big)


@pytest.mark.parametrize("pause", [0.05, 60.0], ids=["drips", "stops"])
def test_a_body_that_hardly_comes_is_cut(
    port: ServerProcess, channel: grpc.Channel, pause: float
) -> None:
    data, digest = content(MIB, seed=5)
    way = upload_way(channel, RUN, 5, len(data), digest)
    began = time.monotonic()
    with open_socket(way) as sock:
        sock.sendall(head(way, "PUT", f"Content-Length: {len(data)}") + data[:5000])
        sock.settimeout(pause)
        sent = 5000
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    assert sock.recv(100) == b""
                    break
                except TimeoutError:
                    sock.sendall(data[sent : sent + 1])
                    sent += 1
        assert STALL_SECONDS * 0.9 < time.monotonic() - began < 6 * STALL_SECONDS
    # Its client may come back with a better link, and go on.
    offset = ask(way, "HEAD").offset
    assert 5000 <= offset <= sent
    assert ask(way, "DELETE").status == 204
    assert not partial_files(port, RUN)
