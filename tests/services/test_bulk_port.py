"""Versions as HTTP: what a GET and a HEAD give, what a ticket opens, and what outlives what."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.servers import ServerProcess
from tests.services.bulk import (
    MIB,
    SMALL_BUFFER,
    Way,
    ask,
    bulk_server,
    connected,
    content,
    download_way,
    head,
    name_of,
    open_socket,
    partial_files,
    push,
    reply,
    rest,
    talk,
    upload_way,
)
from tests.services.raw import ZERO_DIGEST, look, open_channel, refused, unchanged
from tests.until import until
from weightsync.v1 import weights_pb2, weights_pb2_grpc

SIZE = 100_000


@pytest.fixture(scope="module", params=["memory", "disk"])
def port(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that sends from its mappings, and one that sends from files on a disk."""
    on_disk = tmp_path_factory.mktemp("blobs") if request.param == "disk" else None
    with bulk_server(blob_dir=on_disk) as server:
        yield server


@pytest.fixture
def channel(port: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC, where the plans come from."""
    with open_channel(port.address) as made:
        yield made


@pytest.fixture
def data(port: ServerProcess, channel: grpc.Channel, run_id: str) -> bytes:
    """The file of version 1; the same bytes lie in the blob directory."""
    pushed = push(channel, run_id, 1, SIZE)
    (blob,) = (port.blob_dir / run_id).glob("1-*.safetensors")
    assert blob.read_bytes() == pushed
    return pushed


@pytest.fixture
def way(channel: grpc.Channel, run_id: str, data: bytes) -> Way:
    """Where version 1 can be read."""
    del data
    return download_way(channel, run_id, 1)


def test_the_whole_file(way: Way, data: bytes) -> None:
    found = ask(way, "GET")
    assert (found.status, found.body) == (200, data)
    assert found.headers["Content-Length"] == str(len(data))
    assert found.headers["ETag"] == f'"{content(SIZE)[1]}"'
    assert found.headers["Accept-Ranges"] == "bytes"
    assert found.headers["Content-Range"] is None


def test_a_head_has_the_headers_and_no_body(way: Way, data: bytes) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "HEAD", "Connection: close"))
        answer = rest(sock)
    lines = answer.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert b"content-length: %d" % len(data) in answer.lower()
    assert content(SIZE)[1].encode() in answer
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=70000-70999", 70_000, 71_000),
        ("bytes=-5", -5, None),
        ("bytes=-999999999", 0, None),
        ("bytes=5-", 5, None),
        ("bytes=99999-999999999", 99_999, None),
    ],
)
def test_a_part(way: Way, data: bytes, asked: str, begin: int, end: int | None) -> None:
    found = ask(way, "GET", headers={"Range": asked})
    expected = data[begin:end]
    assert (found.status, found.body) == (206, expected)
    first = begin % len(data)
    shown = f"bytes {first}-{first + len(expected) - 1}/{len(data)}"
    assert found.headers["Content-Range"] == shown


@pytest.mark.parametrize("asked", ["bytes=0-4,9-12", "lines=0-4", "bytes=-", "bytes=a-b", "bytes"])
def test_ranges_that_are_not_understood_give_all(way: Way, data: bytes, asked: str) -> None:
    found = ask(way, "GET", headers={"Range": asked})
    assert (found.status, found.body) == (200, data)


@pytest.mark.parametrize("first", [None, 0, 1, 10**17])
def test_a_range_beyond_the_end(way: Way, data: bytes, first: int | None) -> None:
    asked = "bytes=-0" if first is None else f"bytes={len(data) + first}-"
    found = ask(way, "GET", headers={"Range": asked})
    assert (found.status, found.reason) == (416, "OFFSET_OUT_OF_RANGE")
    assert found.metadata == {"size_bytes": str(len(data))}


def test_many_requests_on_one_connection(way: Way, data: bytes) -> None:
    with connected(way) as connection:
        sock = connection.sock
        for number in range(300):
            begin = number * 331 % len(data)
            size = 1 + number * 7919 % 20_000
            asked = {"Range": f"bytes={begin}-{begin + size - 1}"}
            found = talk(connection, way, "GET", headers=asked)
            assert (found.status, found.body) == (206, data[begin : begin + size])
            assert talk(connection, way, "HEAD").headers["Content-Length"] == str(len(data))
        assert connection.sock is sock


def test_requests_that_come_all_at_once_are_answered_in_order(way: Way, data: bytes) -> None:
    asked = [head(way, "GET", f"Range: bytes={first}-{first}") for first in range(20)]
    with open_socket(way) as sock:
        sock.sendall(b"".join([*asked, head(way, "GET", "Connection: close")]))
        answer = rest(sock)
    assert answer.endswith(b"\r\n\r\n" + data)
    for first in range(20):
        assert f"bytes {first}-{first}/{len(data)}".encode() in answer
    assert answer.count(b"HTTP/1.1 206") == 20


@pytest.mark.parametrize(
    ("version", "line"), [("HTTP/1.0", "X: y"), ("HTTP/1.1", "Connection: Close")]
)
def test_who_asks_for_one_answer_gets_one(way: Way, data: bytes, version: str, line: str) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "GET", line, version=version) * 2)
        answer = rest(sock)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert body == data
    assert b"connection: close" in top.lower()


def test_a_version_that_is_deleted_while_it_is_read(channel: grpc.Channel, run_id: str) -> None:
    size = 24 * MIB  # more than both sockets hold
    data = push(channel, run_id, 1, size)
    way = download_way(channel, run_id, 1)
    stub = weights_pb2_grpc.WeightServiceStub(channel)
    with open_socket(way, SMALL_BUFFER) as sock:
        sock.sendall(head(way, "GET", "Connection: close"))
        found = bytearray(sock.recv(1000))
        push(channel, run_id, 2, size, seed=2)
        stub.DeleteWeightVersion(weights_pb2.DeleteWeightVersionRequest(name=name_of(run_id, 1)))
        # Its file must not take the bytes of another version now.
        push(channel, run_id, 3, size, seed=3)
        found += rest(sock)
    assert found.endswith(b"\r\n\r\n" + data)
    assert ask(download_way(channel, run_id, 3), "GET").body == content(size, 3)[0]


def test_tickets_open_only_what_they_are_for(
    port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way, data: bytes
) -> None:
    push(channel, run_id, 2, SIZE, seed=2)
    push(channel, f"{run_id}-other", 1, SIZE)
    scheme, _, text = way.ticket.partition(" ")
    body, _, mac = text.partition(".")
    other = "B" if mac[0] == "A" else "A"
    tickets = {
        "none": "",
        "nonsense": "Bearer nonsense",
        "a scheme of another kind": f"Basic {text}",
        "no scheme": text,
        "without its signature": f"{scheme} {body}",
        "with an empty signature": f"{scheme} {body}.",
        "with another signature": f"{scheme} {body}.{other}{mac[1:]}",
        "with another body": f"{scheme} {body[:-1]}{'A' if body[-1] != 'A' else 'B'}.{mac}",
        "too long": way.ticket + "A" * 5000,
        "not ASCII": f"{scheme} {body}.\xe9{mac}",
        "of another version": download_way(channel, run_id, 2).ticket,
        "of another run": download_way(channel, f"{run_id}-other", 1).ticket,
        "to write this one": upload_way(channel, run_id, 3, 50, ZERO_DIGEST).ticket,
    }
    with unchanged(port, channel, run_id):
        for case, ticket in tickets.items():
            for method in ("GET", "PUT", "DELETE"):
                sent = b"x" * 50 if method == "PUT" else None
                found = ask(way, method, sent, {"Authorization": ticket})
                assert (found.status, found.reason) == (401, "INVALID_TICKET"), (case, method)
        for method in ("PUT", "DELETE"):  # to read is not to write
            sent = data if method == "PUT" else None
            assert ask(way, method, sent).reason == "INVALID_TICKET"
    assert ask(way, "GET").body == data


def test_a_plan_says_when_its_ticket_is_over(channel: grpc.Channel, run_id: str, way: Way) -> None:
    request = weights_pb2.PlanDownloadRequest(name=name_of(run_id, 1), transports=["http"])
    plan = weights_pb2_grpc.WeightServiceStub(channel).PlanDownload(request)
    ends = plan.locations[0].http.expire_time.ToDatetime().timestamp() - time.timezone
    assert 290 < ends - time.time() <= 300
    assert plan.locations[0].http.url == way.url
    request.transports[:] = ["carrier-pigeon"]
    stub = weights_pb2_grpc.WeightServiceStub(channel)
    assert refused(stub.PlanDownload, request).metadata["field"] == "transports"


def test_tickets_and_half_uploads_end_with_the_server(tmp_path: Path, run_id: str) -> None:
    data, digest = content(2 * MIB)
    with bulk_server(blob_dir=tmp_path / "blobs") as server:
        with open_channel(server.address) as channel:
            kept = push(channel, run_id, 1, SIZE)
            reading = download_way(channel, run_id, 1)
            writing = upload_way(channel, run_id, 2, len(data), digest)
            with open_socket(writing) as sock:
                sock.sendall(head(writing, "PUT", f"Content-Length: {len(data)}") + data[:MIB])
                until(lambda: partial_files(server, run_id))
                server.restart()
        assert not partial_files(server, run_id)
        with open_channel(server.address) as channel:
            assert len(look(server, channel, run_id).versions) == 1
            now = download_way(channel, run_id, 1)
            for way, method in ((reading, "GET"), (writing, "HEAD"), (writing, "PUT")):
                old = Way(now.address, way.path, way.ticket)
                assert ask(old, method, data if method == "PUT" else None).status == 401
            assert ask(now, "GET").body == kept
            again = upload_way(channel, run_id, 2, len(data), digest)
            assert ask(again, "PUT", data).status == 201


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl(channel: grpc.Channel, run_id: str, way: Way, data: bytes, tmp_path: Path) -> None:
    def curl(way: Way, *options: str) -> None:
        command = ["curl", "-fsS", "-H", f"Authorization: {way.ticket}", *options, way.url]
        subprocess.run(command, check=True, timeout=30)

    file = tmp_path / "weights.safetensors"
    curl(way, "-o", str(file))
    assert file.read_bytes() == data
    file.write_bytes(data[:1234])
    curl(way, "-C", "-", "-o", str(file))  # goes on where the file ends
    assert file.read_bytes() == data
    big, digest = content(3 * MIB, seed=2)  # of this size curl waits for "100 Continue"
    file.write_bytes(big)
    curl(upload_way(channel, run_id, 2, len(big), digest), "-T", str(file), "-o", "/dev/null")
    assert ask(download_way(channel, run_id, 2), "GET").body == big


def test_a_connection_says_in_what_state_it_ends(way: Way) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "GET", "Range: bytes=0-0"))
        assert reply(sock).headers["Connection"] is None
        sock.sendall(head(Way(way.address, way.path, "Bearer x.y"), "GET"))
        found = reply(sock)
        assert (found.status, found.headers["Connection"]) == (401, "close")
        assert rest(sock) == b""
