"""What is no gRPC at all, and what is just enough of it to be dangerous."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from sync_client import SyncClient
from tests.servers import ServerProcess, running_server
from tests.until import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _HEADERS, _DATA = 4, 1, 0
_END_HEADERS, _END_STREAM = 4, 1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def literal(name: int | bytes, value: bytes) -> bytes:
    """A header in HPACK, by the index of its name in the static table or by name."""
    key = bytes([name]) if isinstance(name, int) else bytes([0, len(name)]) + name
    return key + bytes([len(value)]) + value


def request(path: bytes) -> bytes:
    """A whole gRPC call with an empty message: POST, http, :path, :authority, what gRPC wants."""
    headers = b"\x83\x86" + literal(4, path) + literal(1, b"x")
    headers += literal(b"content-type", b"application/grpc") + literal(b"te", b"trailers")
    return (
        PREFACE
        + frame(_SETTINGS, 0, 0, b"")
        + frame(_HEADERS, _END_HEADERS, 1, headers)
        + frame(_DATA, _END_STREAM, 1, b"\0\0\0\0\0")
    )


def send(server: ServerProcess, data: bytes) -> bytes:
    """Sends bytes to the port; what comes back until it closes, or is silent."""
    host, _, port = server.address.rpartition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(data)
        link.settimeout(0.3)
        try:
            while part := link.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


@pytest.fixture
def target() -> Iterator[ServerProcess]:
    """A server that may complain."""
    with running_server(faults_allowed=True) as server:
        yield server


def _served_anew(server: ServerProcess, count: int) -> bool:
    return server.log.count("serving anew") == count


def _killed(server: ServerProcess, data: bytes, times: int) -> bool:
    return _sent_to(server, data) and server.log.count("serving anew") >= times


def test_a_path_that_is_no_utf8_does_not_close_the_port(target: ServerProcess) -> None:
    pid, weights = target.pid, {"a": torch.ones(3)}
    assert b"/weightsync" not in send(target, request(b"/weightsync.v1.RunService/ListRuns"))
    with (
        SyncClient(target.address, retry_for=10) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        client.push(weights, version=1)
        trainer = client.register("trainer", lease=2.0)
        waiting = threads.submit(client.wait_version, 1, 60)
        until(lambda: len(client.status().waiters) == 1)
        for count in range(1, 6):
            send(target, request(b"/weightsync.v1.RunService/\xd7ist"))
            until(partial(_served_anew, target, count))
            assert [version.version for version in client.versions()] == [1]
        # Nothing that it knew is lost, and who waited before it still waits.
        assert trainer.push(weights, version=2).version == 2
        assert waiting.result(timeout=10) == 2
        assert trainer.generation == 1
    assert (target.running, target.pid) == (True, pid)
    assert target.stop() == 0


def test_calls_under_way_when_the_port_dies_are_asked_again(target: ServerProcess) -> None:
    bad = request(b"/weightsync.v1.RunService/\xd7ist")
    dying = threading.Event()

    def ask(client: SyncClient) -> int:
        answers = 0
        while not dying.is_set():
            client.versions()
            answers += 1
        return answers

    clients = [SyncClient(target.address, retry_for=10) for _ in range(4)]
    with ThreadPoolExecutor(len(clients)) as threads:
        asked = [threads.submit(ask, client) for client in clients]
        try:
            for count in range(1, 11):
                # Sent again, because what the dying port still took was read by nobody.
                until(partial(_killed, target, bad, count), timeout=30)
        finally:
            dying.set()
        assert all(call.result(timeout=30) > 0 for call in asked)
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 500,  # a TLS hello
        PREFACE,
        PREFACE + frame(_HEADERS, _END_HEADERS, 1, b"\x83\x86"),
        PREFACE + frame(_SETTINGS, 0, 0, b"123"),
        PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(99, 255, 2**31 - 1, b"x" * 100),
        PREFACE + b"\xff\xff\xff" + b"\x00" * 100,  # a frame of 16 MiB
        request(b""),
        request(b"no slash at all"),
        request(b"/"),
        request(b"/weightsync.v1.WeightService/UploadWeights\x00"),
        request(b"/grpc.health.v1.Health/Check/more"),
        request(b"/" + b"x" * 100),
    ],
    ids=range(15),
)
def test_what_is_no_call_harms_nobody(server: ServerProcess, data: bytes) -> None:
    send(server, data)
    with SyncClient(server.address) as client:
        assert client.status().run == "default"
    server.assert_no_faults()


def test_random_bytes_harm_nobody(target: ServerProcess) -> None:
    source = random.Random(3)
    whole = request(b"/weightsync.v1.RunService/ListRuns")
    with SyncClient(target.address, retry_for=10) as client:
        client.push({"a": torch.ones(3)}, version=1)
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(source.randrange(1, 6)):
                data[source.randrange(24, len(data))] = source.randrange(256)
            sent = PREFACE + source.randbytes(200) if source.random() < 0.2 else bytes(data)
            # Between two lives of the port it may be refused for a moment.
            until(partial(_sent_to, target, sent))
        assert [version.version for version in client.versions()] == [1]
    assert target.stop() == 0


def _sent_to(server: ServerProcess, data: bytes) -> bool:
    host, _, port = server.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(data)
    except OSError:
        return False
    return True
