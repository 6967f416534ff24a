"""Uploads by PUT: whole, in parts, gone on with, taken over, refused; and what is left behind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import pytest

from tests.servers import ServerProcess
from tests.services.bulk import (
    Way,
    ask,
    bulk_server,
    committed,
    connected,
    content,
    download_way,
    head,
    name_of,
    open_socket,
    partial_files,
    put_part,
    reply,
    rest,
    talk,
    upload_way,
)
from tests.services.raw import (
    look,
    open_channel,
    unchanged,
)
from tests.until import until
from weightsync.v1 import weights_pb2, weights_pb2_grpc

SIZE = 300_000
DATA, DIGEST = content(SIZE)


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


@pytest.fixture
def way(channel: grpc.Channel, run_id: str) -> Way:
    """Where version 1 can be sent."""
    return upload_way(channel, run_id, 1, len(DATA), DIGEST)


def test_the_whole_file(port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way) -> None:
    said = committed(ask(way, "PUT", DATA)).weight_version
    assert (said.name, said.digest, said.size_bytes) == (name_of(run_id, 1), DIGEST, len(DATA))
    assert said.state == weights_pb2.WEIGHT_VERSION_STATE_ACTIVE
    (blob,) = (port.blob_dir / run_id).iterdir()
    assert blob.read_bytes() == DATA
    assert ask(download_way(channel, run_id, 1), "GET").body == DATA
    # The upload is over, and with it all that its ticket was for.
    with unchanged(port, channel, run_id):
        for method, body in (("PUT", DATA), ("HEAD", None), ("DELETE", None)):
            assert ask(way, method, body).status == 401, method
    request = weights_pb2.PlanUploadRequest(
        header=weights_pb2.UploadWeightsHeader(
            name=name_of(run_id, 1), size_bytes=len(DATA), digest=DIGEST
        )
    )
    plan = weights_pb2_grpc.WeightServiceStub(channel).PlanUpload(request)
    assert plan.weight_version == said


def test_a_file_without_tensors(channel: grpc.Channel, run_id: str) -> None:
    data, digest = content(0)
    assert committed(ask(upload_way(channel, run_id, 1, len(data), digest), "PUT", data))
    assert ask(download_way(channel, run_id, 1), "GET").body == data


def test_many_versions_over_one_connection(channel: grpc.Channel, run_id: str) -> None:
    way = upload_way(channel, run_id, 30, len(DATA), DIGEST)
    with connected(way) as connection:
        sock = connection.sock
        for number in range(1, 30):
            data, digest = content(number * 1000, number)
            way = upload_way(channel, run_id, number, len(data), digest)
            assert committed(talk(connection, way, "PUT", data)).weight_version.version == number
            reading = download_way(channel, run_id, number)
            assert talk(connection, reading, "GET").body == data
        assert connection.sock is sock


def test_in_parts(port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way) -> None:
    # The first ones end within the header.
    bounds = [0, 1, 8, 9, 100, 5000, 5001, 200_000, len(DATA)]
    for begin, end in itertools.pairwise(bounds[:-1]):
        found = put_part(way, DATA, begin, end)
        assert (found.status, found.offset) == (204, end)
        assert ask(way, "HEAD").offset == end
        assert look(port, channel, run_id).versions == []
    committed(put_part(way, DATA, bounds[-2], bounds[-1]))
    assert ask(download_way(channel, run_id, 1), "GET").body == DATA


@pytest.mark.parametrize("sent", [0, 5, 60, 200_000], ids=lambda sent: f"after {sent} bytes")
def test_gone_on_with_after_the_connection_broke(
    channel: grpc.Channel, run_id: str, way: Way, sent: int
) -> None:
    with open_socket(way) as sock:
        sock.sendall(head(way, "PUT", f"Content-Length: {len(DATA)}") + DATA[:sent])
        sock.shutdown(1)
        assert rest(sock) == b""
    assert ask(way, "HEAD").offset == sent
    committed(put_part(way, DATA, sent, len(DATA)))
    assert ask(download_way(channel, run_id, 1), "GET").body == DATA


def test_a_second_connection_takes_over(
    port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way
) -> None:
    with open_socket(way) as first, open_socket(way) as second:
        first.sendall(head(way, "PUT", f"Content-Length: {len(DATA)}") + DATA[:100_000])
        until(lambda: partial_files(port, run_id))
        # Its link may hang for long; the client is here again all the same.
        second.sendall(head(way, "HEAD"))
        offset = reply(second, "HEAD").offset
        assert offset == 100_000
        assert rest(first) == b""
        lines = (
            f"Content-Length: {len(DATA) - offset}",
            f"Content-Range: bytes {offset}-{len(DATA) - 1}/{len(DATA)}",
        )
        second.sendall(head(way, "PUT", *lines) + DATA[offset:])
        committed(reply(second))
    assert ask(download_way(channel, run_id, 1), "GET").body == DATA


def test_a_part_at_the_wrong_place(way: Way) -> None:
    for begin, end in ((1, 10), (100, len(DATA))):
        found = put_part(way, DATA, begin, end)
        assert (found.status, found.reason) == (416, "OFFSET_OUT_OF_RANGE")
        assert found.metadata == {"received": "0"}
    assert put_part(way, DATA, 0, 1000).offset == 1000
    for begin, end in ((0, 1000), (0, len(DATA)), (999, 2000), (1001, 2000)):
        assert put_part(way, DATA, begin, end).metadata == {"received": "1000"}
        assert ask(way, "HEAD").offset == 1000
    committed(put_part(way, DATA, 1000, len(DATA)))


_SIZE = len(DATA)
_BAD_LENGTHS = {
    "none": (411, [], b""),
    "chunked": (411, ["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    "of nothing": (400, ["Content-Length: 0"], b""),
    "too much": (400, [f"Content-Length: {_SIZE + 1}"], DATA + b"x"),
    "negative": (400, ["Content-Length: -1"], b""),
    "no number": (400, ["Content-Length: ten"], b""),
    "of 30 digits": (400, ["Content-Length: " + "9" * 30], b""),
    "of 19 digits": (411, ["Content-Length: " + "9" * 19], b""),
    "other than the range": (
        400,
        ["Content-Length: 10", f"Content-Range: bytes 0-10/{_SIZE}"],
        DATA[:10],
    ),
    "of another file": (400, ["Content-Length: 10", "Content-Range: bytes 0-9/10"], DATA[:10]),
    "beyond the end": (
        400,
        ["Content-Length: 2", f"Content-Range: bytes {_SIZE - 1}-{_SIZE}/{_SIZE}"],
        b"xx",
    ),
    "backwards": (400, ["Content-Length: 1", f"Content-Range: bytes 9-0/{_SIZE}"], b"x"),
    "a range of no form": (400, ["Content-Length: 10", "Content-Range: 0-9"], DATA[:10]),
    "an open range": (400, ["Content-Length: 10", "Content-Range: bytes 0-9/*"], DATA[:10]),
}


@pytest.mark.parametrize("case", _BAD_LENGTHS)
def test_a_length_that_is_wrong(way: Way, case: str) -> None:
    status, lines, body = _BAD_LENGTHS[case]
    assert put_part(way, DATA, 0, 1000).offset == 1000
    with open_socket(way) as sock:
        sock.sendall(head(way, "PUT", *lines) + body)
        assert reply(sock).status == status
        assert rest(sock) == b""  # what was meant as a body is not read as a request
    assert ask(way, "HEAD").offset == 1000
    committed(put_part(way, DATA, 1000, _SIZE))
