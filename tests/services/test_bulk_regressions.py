"""What once went wrong on the bulk port: one test a fault."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from sync_server.bulk.tickets import Ticket, Tickets
from sync_server.domain.errors import InvalidTicket
from tests.servers import ServerProcess, running_server
from tests.services.bulk import (
    MIB,
    Way,
    ask,
    bulk_server,
    committed,
    content,
    download_way,
    head,
    name_of,
    nothing_is_left,
    open_socket,
    partial_files,
    push,
    put_part,
    reply,
    rest,
    upload_way,
)
from tests.services.raw import open_channel, refused, upload_refused
from tests.until import until
from weightsync.v1 import weights_pb2, weights_pb2_grpc

DATA, DIGEST = content(300_000)


@pytest.fixture(scope="module")
def port() -> Iterator[ServerProcess]:
    """A server with a bulk port."""
    with bulk_server() as server:
        yield server


@pytest.fixture
def channel(port: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC, where the plans come from."""
    with open_channel(port.address) as made:
        yield made


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_version_that_is_gone_is_said_to_be(place: str, tmp_path: Path, run_id: str) -> None:
    blob_dir = tmp_path / "blobs" if place == "disk" else None
    with (
        bulk_server("--keep-versions", "1", blob_dir=blob_dir) as server,
        open_channel(server.address) as channel,
    ):
        push(channel, run_id, 1, 1000)
        way = download_way(channel, run_id, 1)
        assert ask(way, "GET").status == 200
        for number in (2, 3):
            push(channel, run_id, number, 1000, seed=number)
        gone = ask(way, "GET")
        assert (gone.status, gone.reason) == (404, "VERSION_RETIRED")
        assert gone.metadata == {"version": "1"}
        assert ask(way, "HEAD").status == 404


def test_a_signature_that_reads_the_same_is_another_text() -> None:
    """Base 64 has several texts for the same bytes."""
    tickets = Tickets(lambda: 0.0)
    text = tickets.sign(Ticket("get", "r", 1, "r/1", 10, "xxh3-128:00"))
    at = len(text) - 1
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [text[:at] + letter for letter in letters if letter != text[at]]
    others += [text + end for end in ("=", "==", "!", ".", "\n", " ")]
    others += [text.replace(".", ".!"), text.replace(".", "..")]
    for other in others:
        with pytest.raises(InvalidTicket):
            tickets.open(other, "get", "r", 1)
    assert tickets.open(text, "get", "r", 1).number == 1


def test_a_header_of_no_bytes(port: ServerProcess, channel: grpc.Channel, run_id: str) -> None:
    """It was waited for in a busy loop, until the upload was cut for its pace."""
    for data in (bytes(10), bytes(5000)):
        way = upload_way(channel, run_id, 1, len(data), DIGEST)
        began = time.monotonic()
        found = ask(way, "PUT", data)
        assert (found.status, found.reason) == (400, "INVALID_HEADER")
        assert time.monotonic() - began < 5.0
        nothing_is_left(port, channel, run_id)
        assert upload_refused(channel, name_of(run_id, 1), data).reason == "INVALID_HEADER"


def test_a_file_that_is_too_short_is_no_part(channel: grpc.Channel, run_id: str) -> None:
    """Or `curl -f -T` of a cut file would end well without a version."""
    way = upload_way(channel, run_id, 1, len(DATA), DIGEST)
    found = ask(way, "PUT", DATA[:-1])
    assert (found.status, found.reason) == (400, "SIZE_MISMATCH")
    assert ask(way, "HEAD").offset == 0
    committed(ask(way, "PUT", DATA))


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_the_body_of_what_has_none_is_not_the_next_request(
    channel: grpc.Channel, run_id: str, method: str
) -> None:
    push(channel, run_id, 1, 1000)
    way = download_way(channel, run_id, 1)
    if method == "DELETE":
        way = upload_way(channel, run_id, 2, len(DATA), DIGEST)
    hidden = head(way, "HEAD", "X: y")
    with open_socket(way) as sock:
        sock.sendall(head(way, method, f"Content-Length: {len(hidden)}") + hidden)
        sock.shutdown(1)
        assert rest(sock).count(b"HTTP/1.1 ") == 1


def test_a_bare_line_feed_ends_no_head(channel: grpc.Channel, run_id: str) -> None:
    """Of two ends of a head that both sides of a proxy may see, the port sees none."""
    push(channel, run_id, 1, 1000)
    way = download_way(channel, run_id, 1)
    hidden = head(way, "GET", "Range: bytes=0-0")
    with open_socket(way) as sock:
        sock.sendall(head(way, "GET")[:-4] + b"\n\n" + hidden)
        answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 400"), answer[:100]


def test_a_refusal_closes_and_says_so(channel: grpc.Channel, run_id: str) -> None:
    push(channel, run_id, 1, 1000)
    way = download_way(channel, run_id, 1)
    for method, path in (("POST", way.path), ("GET", "/"), ("GET", way.path + "x")):
        with open_socket(way) as sock:
            sock.sendall(head(Way(way.address, path, way.ticket), method))
            assert reply(sock, method).headers["Connection"] == "close"
            assert rest(sock) == b""


def test_a_refused_head_has_no_body(channel: grpc.Channel, run_id: str) -> None:
    push(channel, run_id, 1, 1000)
    way = download_way(channel, run_id, 1)
    for path, ticket in ((way.path, "none"), ("/", way.ticket), (way.path + "x", way.ticket)):
        with open_socket(way) as sock:
            sock.sendall(head(Way(way.address, path, ticket), "HEAD"))
            assert rest(sock).endswith(b"\r\n\r\n")


def test_a_replaced_upload_gives_its_room_back_at_once(
    port: ServerProcess, channel: grpc.Channel, run_id: str
) -> None:
    way = upload_way(channel, run_id, 1, len(DATA), DIGEST)
    assert put_part(way, DATA, 0, 200_000).status == 204
    data, digest = content(1000, seed=9)
    other = upload_way(channel, run_id, 1, len(data), digest)
    assert not partial_files(port, run_id)
    committed(ask(other, "PUT", data))


def test_two_ways_at_once_for_one_upload(run_id: str) -> None:
    """A segment can't be claimed while a connection fills it."""
    environment = {"WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0", "WEIGHTSYNC_SHARED_MEMORY": "true"}
    data, digest = content(4 * MIB)
    header = weights_pb2.UploadWeightsHeader(
        name=name_of(run_id, 1), size_bytes=len(data), digest=digest
    )
    with running_server(environment=environment) as server, open_channel(server.address) as channel:
        stub = weights_pb2_grpc.WeightServiceStub(channel)
        request = weights_pb2.PlanUploadRequest(header=header)
        request.transports[:] = ["http", "shared-memory"]
        plan = stub.PlanUpload(request)
        segment = plan.locations[0].shared_memory.path
        way = upload_way(channel, run_id, 1, len(data), digest)
        with open_socket(way) as sock:
            line = f"Content-Length: {len(data)}"
            sock.sendall(head(way, "PUT", line, "Expect: 100-continue"))
            assert b"100 Continue" in sock.recv(100)
            header.segment = segment
            frames = iter([weights_pb2.UploadWeightsRequest(header=header)])
            assert refused(stub.UploadWeights, frames).reason == "UPLOAD_IN_PROGRESS"
            sock.sendall(data)
            committed(reply(sock))


def test_a_thread_that_can_not_be_started_does_not_close_the_port(run_id: str) -> None:
    with bulk_server() as server, open_channel(server.address) as channel:
        data = push(channel, run_id, 1, 1000)
        way = download_way(channel, run_id, 1)
        process = psutil.Process(server.pid)
        limits = process.rlimit(psutil.RLIMIT_AS)
        answers: list[int] = []
        with contextlib.ExitStack() as stack:
            # Room for no more than a few stacks of 8 MiB.
            process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + MIB, limits[1]))
            while 503 not in answers:
                sock = stack.enter_context(open_socket(way))
                sock.settimeout(5.0)
                sock.sendall(head(way, "HEAD"))
                answers.append(reply(sock, "HEAD").status)
                assert len(answers) < 256
        process.rlimit(psutil.RLIMIT_AS, limits)
        until(lambda: ask(way, "GET").body == data, timeout=5.0)
        assert "could not start a thread" in server.log
