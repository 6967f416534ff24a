"""What comes to the bulk port that is no honest client; afterwards it serves as it did before."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers import ServerProcess
from tests.services.bulk import (
    MIB,
    Way,
    ask,
    bulk_server,
    content,
    download_way,
    head,
    open_socket,
    push,
    reply,
    reset,
    rest,
    unharmed,
    upload_way,
    use_it,
)
from tests.services.raw import look, open_channel
from tests.until import until

LIMIT = 24
RUN = "hostile"


@pytest.fixture(scope="module")
def port() -> Iterator[ServerProcess]:
    """A server that takes few connections."""
    with bulk_server("--http-connections", str(LIMIT)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(port: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC, where the plans come from."""
    with open_channel(port.address) as made:
        yield made


@pytest.fixture(scope="module")
def small(port: ServerProcess, channel: grpc.Channel) -> bytes:
    """The file of version 1, on a server that has been in use."""
    data = push(channel, RUN, 1, 1000)
    use_it(port, channel, RUN, LIMIT // 2)
    return data


@pytest.fixture
def way(channel: grpc.Channel, small: bytes) -> Way:
    """Where version 1 can be read."""
    del small
    return download_way(channel, RUN, 1)


@pytest.fixture(autouse=True)
def serves_on(port: ServerProcess, way: Way, small: bytes) -> Iterator[None]:
    """After the test it serves as before."""
    with unharmed(port, way, small):
        yield


@pytest.fixture(scope="module")
def strange() -> st.SearchStrategy[bytes]:
    """Bytes that are almost requests, and bytes that are none."""
    words = [b"GET ", b"PUT ", b"/v1/runs/hostile/weightVersions/1", b" HTTP/1.1", b" HTTP/9.9"]
    words += [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b"Host: x\r\n",
        b"Content-Length: 10\r\n",
        b"\xff",
    ]
    words += [b"Transfer-Encoding: chunked\r\n", b"Range: bytes=--\r\n", b"Upgrade: h2c\r\n", b" "]
    words += [b"Authorization: Bearer a.b\r\n", b"Expect: 100-continue\r\n", b"Connection: \r\n"]
    parts = st.one_of(st.sampled_from(words), st.binary(max_size=20))
    return st.lists(parts, min_size=1, max_size=20).map(b"".join)


@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    # The fixtures are the same for all examples on purpose.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_bytes_that_are_no_request(
    way: Way, strange: st.SearchStrategy[bytes], data: st.DataObject
) -> None:
    sent = data.draw(strange) + b"\r\n\r\n"
    with open_socket(way) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        answer = rest(sock)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer


def test_connections_that_come_and_go(way: Way) -> None:
    for number in range(60):
        with open_socket(way) as sock:
            if number % 3:
                sock.sendall(head(way, "GET")[: number % 50])
            if number % 2:
                reset(sock)


def test_a_head_that_has_no_end(way: Way) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "GET")[:-2] + b"X: " + b"x" * (20 << 10))
        assert reply(sock).status == 431
        assert rest(sock) == b""


def test_very_many_headers(way: Way) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "GET", *(f"X{n}: y" for n in range(1000)), "Connection: close"))
        assert reply(sock).status in (200, 400, 431)


_TRICKS = [
    "/",
    "*",
    "/v1/",
    "/v1/../../etc/passwd",
    "/v1/%2e%2e/%2e%2e/etc/passwd",
    "//v1/runs/hostile/weightVersions/1",
    "/v1//runs/hostile/weightVersions/1",
    "/v1/runs/hostile/weightVersions/1/",
    "/v1/runs/hostile/weightVersions/1/../2",
    "/v1/runs/hostile/weightVersions/%31",
    "/v1/runs/hostile/weightVersions/01",
    "/v1/runs/hostile/weightVersions/-1",
    "/v1/runs/hostile/weightVersions/" + "9" * 10_000,
    "/v1/runs/hostile/weightVersions/1?x=1",
    "/v1/runs/hostile/weightVersions/1#x",
    "/v1/runs/../hostile/weightVersions/1",
    "/v1/runs/%68ostile/weightVersions/1",
    "/v1/runs/./weightVersions/1",
    "/V1/runs/hostile/weightVersions/1",
    "http://127.0.0.1/v1/runs/hostile/weightVersions/1",
    "file:///etc/passwd",
    "\\v1\\runs\\hostile\\weightVersions\\1",
]


@pytest.mark.parametrize("path", _TRICKS, ids=range(len(_TRICKS)))
def test_paths_that_lead_elsewhere(way: Way, path: str) -> None:
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        with open_socket(way) as sock:
            sock.sendall(head(Way(way.address, path, way.ticket), method, "Content-Length: 0"))
            answer = rest(sock)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), answer
        assert b"root:" not in answer


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T"])
def test_methods_that_are_none(way: Way, method: str) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, method))
        assert rest(sock).startswith((b"HTTP/1.1 405", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 6",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5\0",),
        ("X: y\n Content-Length: 5",),
    ],
)
def test_a_body_whose_end_is_open_to_dispute_is_not_read(
    way: Way, channel: grpc.Channel, port: ServerProcess, lines: tuple[str, ...]
) -> None:
    """Else who stands between could see other requests than the server does (RFC 9112, 11.2)."""
    hidden = head(way, "GET")
    data, digest = content(MIB, seed=6)
    writing = upload_way(channel, RUN, 7, len(data), digest)
    with open_socket(way) as sock:
        sock.sendall(head(writing, "PUT", *lines) + b"0\r\n\r\n" + hidden)
        answer = rest(sock)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 411")), answer
    assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1
    assert ask(writing, "DELETE").status == 204
    assert [version["version"] for version in look(port, channel, RUN).versions] == ["1"]


def test_more_connections_than_there_may_be(way: Way, small: bytes) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(open_socket(way)) for _ in range(LIMIT)]
        for sock in held:
            sock.sendall(head(way, "HEAD"))
            assert reply(sock, "HEAD").status == 200
        for _ in range(5):
            with open_socket(way) as sock:
                found = reply(sock)
                assert (found.status, found.headers["Connection"]) == (503, "close")
                assert rest(sock) == b""
        for sock in held:
            sock.sendall(head(way, "GET"))
            assert reply(sock).body == small
        held[0].close()

        def one_more() -> bool:
            found = ask(way, "GET")
            assert found.status in (200, 503)
            return found.status == 200

        assert until(one_more, timeout=5.0)


def test_many_strangers_at_once(way: Way, small: bytes) -> None:
    """Good requests go on while others send what they like."""
    stop = threading.Event()

    def stranger(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            with contextlib.suppress(OSError), open_socket(way) as sock:
                text = bytearray(head(way, rng.choice(("GET", "PUT", "HEAD", "DELETE"))))
                for _ in range(rng.randrange(4)):
                    text[rng.randrange(len(text))] = rng.randrange(256)
                sock.sendall(text[: rng.randrange(len(text))] if rng.random() < 0.5 else text)
                reset(sock)

    threads = [threading.Thread(target=stranger, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            assert ask(way, "GET").body == small
    finally:
        stop.set()
        for thread in threads:
            thread.join()
