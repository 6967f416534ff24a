"""The bulk port as a stranger meets it: plans from gRPC, requests by http.client or by hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil
from google.protobuf import json_format

from tests.servers import ServerProcess, running_server
from tests.services.raw import TIMEOUT, chunk_frames, entry, header_frame, look, stream, upload
from tests.until import until
from weightsync.digests import StreamDigester
from weightsync.layout import parse
from weightsync.v1 import weights_pb2, weights_pb2_grpc

MIB = 1 << 20
SMALL_BUFFER = 64 << 10
"""Of a socket that is to fill up soon."""


@dataclass(frozen=True)
class Way:
    """Where a plan leads."""

    address: tuple[str, int]
    path: str
    ticket: str

    @property
    def url(self) -> str:
        """As a client is told."""
        return f"http://{self.address[0]}:{self.address[1]}{self.path}"


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def reason(self) -> str:
        """Why it was refused, as the JSON says it; the HTTP status where there is none."""
        try:
            return str(json.loads(self.body)["reason"])
        except ValueError:
            return f"{self.status} {self.body!r}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the JSON of a refusal says for machines."""
        found = json.loads(self.body)["metadata"]
        assert isinstance(found, dict)
        return found

    @property
    def offset(self) -> int:
        """`Upload-Offset`."""
        return int(self.headers["Upload-Offset"])


@contextlib.contextmanager
def bulk_server(*options: str, **directories: Any) -> Iterator[ServerProcess]:
    """A server with a bulk port on a free port."""
    environment = {"WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0"}
    with running_server(environment=environment, options=options, **directories) as server:
        yield server


def content(size: int, seed: int = 0) -> tuple[bytes, str]:
    """A safetensors file with two tensors of `size` bytes together, and its digest."""
    middle = size // 3
    entries = {"a": entry(0, middle), "b": entry(middle, size)}
    data = stream(entries, random.Random(seed).randbytes(size))
    layout = parse(data, len(data))
    digester = StreamDigester(layout)
    digester.update(memoryview(data)[layout.data_offset :])
    return data, digester.version_digest()


def name_of(run_id: str, number: int) -> str:
    """The version's name."""
    return f"runs/{run_id}/weightVersions/{number}"


def push(channel: grpc.Channel, run_id: str, number: int, size: int, seed: int = 0) -> bytes:
    """Pushes a version over gRPC; the file it is."""
    data, digest = content(size, seed)
    upload(channel, [header_frame(name_of(run_id, number), len(data), digest), *chunk_frames(data)])
    return data


def download_way(channel: grpc.Channel, run_id: str, number: int) -> Way:
    """Where the version is to be read."""
    request = weights_pb2.PlanDownloadRequest(name=name_of(run_id, number), transports=["http"])
    plan = weights_pb2_grpc.WeightServiceStub(channel).PlanDownload(request)
    return _way(plan.locations)


def upload_way(
    channel: grpc.Channel, run_id: str, number: int, size: int, digest: str, **fields: Any
) -> Way:
    """Where the version is to be sent."""
    header = weights_pb2.UploadWeightsHeader(
        name=name_of(run_id, number), size_bytes=size, digest=digest, **fields
    )
    request = weights_pb2.PlanUploadRequest(header=header, transports=["http"])
    plan = weights_pb2_grpc.WeightServiceStub(channel).PlanUpload(request)
    return _way(plan.locations)


def _way(locations: Sequence[weights_pb2.Location]) -> Way:
    assert [location.WhichOneof("kind") for location in locations] == ["http", "grpc"]
    http_location = locations[0].http
    url = urlsplit(http_location.url)
    assert (url.scheme, url.hostname) == ("http", "127.0.0.1")
    assert url.port is not None
    return Way(("127.0.0.1", url.port), url.path, http_location.ticket)


# --- by http.client


@contextlib.contextmanager
def connected(way: Way) -> Iterator[http.client.HTTPConnection]:
    """A connection of its own."""
    connection = http.client.HTTPConnection(*way.address, timeout=TIMEOUT)
    connection.connect()
    with contextlib.closing(connection):
        yield connection


def talk(
    connection: http.client.HTTPConnection,
    way: Way,
    method: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request on the connection, with the ticket unless `headers` has another."""
    given = {"Authorization": way.ticket, **(headers or {})}
    connection.request(method, way.path, body, {k: v for k, v in given.items() if v})
    with connection.getresponse() as response:
        return Reply(response.status, response.headers, response.read())


def ask(
    way: Way, method: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    with connected(way) as connection:
        return talk(connection, way, method, body, headers)


def put_part(way: Way, data: bytes, begin: int, end: int) -> Reply:
    """A part of the file `data`."""
    header = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
    return ask(way, "PUT", data[begin:end], header)


# --- by hand


@contextlib.contextmanager
def open_socket(way: Way, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A plain connection; `receive_buffer` in bytes, where it is to fill up soon."""
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT)
        sock.connect(way.address)
        yield sock


def head(way: Way, method: str, *lines: str, version: str = "HTTP/1.1") -> bytes:
    """The head of a request with the ticket, and with `lines`."""
    first = (f"{method} {way.path} {version}", "Host: x", f"Authorization: {way.ticket}")
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


def reply(sock: socket.socket, method: str = "GET") -> Reply:
    """Reads one answer, whatever comes after it. Nothing but this may read from the socket."""
    with http.client.HTTPResponse(sock, method=method) as response:
        response.begin()
        return Reply(response.status, response.headers, response.read())


def rest(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(MIB):
            found += part
    return bytes(found)


def reset(sock: socket.socket) -> None:
    """Closes it as the kernel does for a process that died with bytes unread."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def partial_files(server: ServerProcess, run_id: str) -> list[str]:
    """Half uploads of a run."""
    return [path.name for path in (server.blob_dir / run_id).glob("*.partial")]


def committed(found: Reply) -> weights_pb2.UploadWeightsResponse:
    """What the server says of a committed version."""
    assert found.status == 201, found
    return json_format.Parse(found.body, weights_pb2.UploadWeightsResponse())


def nothing_is_left(server: ServerProcess, channel: grpc.Channel, run_id: str) -> None:
    """No version, and no file but the spare one that the next upload is written into."""
    state = look(server, channel, run_id)
    assert state.versions == []
    assert [name for name in state.blobs if not name.endswith(".spare")] == []


# --- what a server is left with


def sockets(process: psutil.Process, way: Way) -> list[object]:
    """The connections of the server's bulk port."""
    found = process.net_connections("tcp")
    return [link for link in found if link.raddr and link.laddr.port == way.address[1]]


def use_it(server: ServerProcess, channel: grpc.Channel, run_id: str, connections: int) -> None:
    """Reads version 1 and writes at once, so that what grows with use is there before a test."""
    way = download_way(channel, run_id, 1)
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(open_socket(way)) for _ in range(connections)]
            for sock in socks:
                sock.sendall(head(way, "GET", "Range: bytes=0-999"))
            assert {reply(sock).status for sock in socks} == {206}
    half, digest = content(MIB, seed=5)
    for number in (8, 9):
        writing = upload_way(channel, run_id, number, len(half), digest)
        assert put_part(writing, half, 0, MIB // 2).status == 204
        assert ask(writing, "DELETE").status == 204
    process = psutil.Process(server.pid)
    until(lambda: not sockets(process, way))


@contextlib.contextmanager
def unharmed(server: ServerProcess, way: Way, data: bytes) -> Iterator[None]:
    """After the block a good request is answered, nothing leaked, and the log shows no fault.

    `data` is the file that `way` leads to.
    """
    process = psutil.Process(server.pid)
    fds, threads = process.num_fds(), process.num_threads()
    yield
    found = ask(way, "GET")
    assert (found.status, found.body) == (200, data)
    until(lambda: not sockets(process, way), timeout=5.0)
    until(lambda: process.num_fds() <= fds, timeout=5.0)
    # The threads of executors stay: the event loop has some for each core, and two warm pages.
    until(lambda: process.num_threads() <= threads + 8, timeout=5.0)
    server.assert_no_faults()
