"""How uploads by PUT end: refused, given up, replaced, stopped; and what is left behind."""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    reset,
    rest,
    upload_way,
)
from tests.services.raw import (
    ZERO_DIGEST,
    entry,
    open_channel,
    refusal,
    refused,
    stream,
)
from tests.until import until
from weightsync.v1 import weights_pb2, weights_pb2_grpc, workers_pb2, workers_pb2_grpc

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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff" * 5000, "INVALID_HEADER"),
        (stream({"a": entry(0, 9)}, b"12345678"), "INVALID_HEADER"),
        (stream(b"[1, 2"), "INVALID_HEADER"),
        (DATA[:-1] + bytes([DATA[-1] ^ 1]), "DIGEST_MISMATCH"),
    ],
    ids=["ones", "a tensor that is cut", "no JSON", "a bit flipped"],
)
def test_bytes_that_are_no_such_version(
    port: ServerProcess, channel: grpc.Channel, run_id: str, data: bytes, reason: str
) -> None:
    for parts in (1, 2):
        way = upload_way(channel, run_id, 1, len(data), DIGEST)
        if parts == 2:
            assert put_part(way, data, 0, 4).offset == 4
        found = ask(way, "PUT", data) if parts == 1 else put_part(way, data, 4, len(data))
        assert (found.status, found.reason) == (400, reason)
        nothing_is_left(port, channel, run_id)
        assert ask(way, "HEAD").status == 401  # given up
    committed(ask(upload_way(channel, run_id, 1, len(DATA), DIGEST), "PUT", DATA))


def test_given_up(port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way) -> None:
    assert put_part(way, DATA, 0, 200_000).status == 204
    assert partial_files(port, run_id)
    assert ask(way, "DELETE").status == 204
    nothing_is_left(port, channel, run_id)
    data, digest = content(1000, seed=9)
    other = upload_way(channel, run_id, 1, len(data), digest, request_id="another")
    assert put_part(way, DATA, 200_000, len(DATA)).reason == "INVALID_TICKET"
    committed(ask(other, "PUT", data))
    assert ask(download_way(channel, run_id, 1), "GET").body == data


def test_an_upload_whose_client_is_there_is_let_alone(
    channel: grpc.Channel, run_id: str, way: Way
) -> None:
    data, digest = content(1000, seed=9)
    header = weights_pb2.UploadWeightsHeader(
        name=name_of(run_id, 1), size_bytes=len(data), digest=digest
    )
    request = weights_pb2.PlanUploadRequest(header=header, transports=["http"])
    stub = weights_pb2_grpc.WeightServiceStub(channel)
    assert refused(stub.PlanUpload, request).reason == "UPLOAD_IN_PROGRESS"
    with open_socket(way) as sock:
        sock.sendall(head(way, "PUT", f"Content-Length: {len(DATA)}", "Expect: 100-continue"))
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(DATA[:1000])
        assert refused(stub.PlanUpload, request).reason == "UPLOAD_IN_PROGRESS"
        sock.sendall(DATA[1000:])
        committed(reply(sock))


def test_an_upload_whose_client_is_gone_is_replaced_at_once(
    port: ServerProcess, channel: grpc.Channel, run_id: str, way: Way
) -> None:
    data, digest = content(1000, seed=9)
    with open_socket(way) as sock:
        sock.sendall(head(way, "PUT", f"Content-Length: {len(DATA)}") + DATA[:200_000])
        until(lambda: partial_files(port, run_id))
        reset(sock)

    def planned() -> Way | None:
        try:
            return upload_way(channel, run_id, 1, len(data), digest)
        except grpc.RpcError as error:
            if refusal(error).reason != "UPLOAD_IN_PROGRESS":
                raise
            return None

    other = until(planned, timeout=2.0)
    # The first one comes back too late.
    found = put_part(way, DATA, 200_000, len(DATA))
    assert found.reason in ("UPLOAD_IN_PROGRESS", "INVALID_TICKET")
    committed(ask(other, "PUT", data))
    assert ask(download_way(channel, run_id, 1), "GET").body == data


def test_a_trainer_that_was_replaced_meanwhile(
    port: ServerProcess, channel: grpc.Channel, run_id: str
) -> None:
    workers = workers_pb2_grpc.WorkerServiceStub(channel)

    def register(request_id: str) -> int:
        request = workers_pb2.RegisterWorkerRequest(
            parent=f"runs/{run_id}",
            worker_id="trainer",
            role=workers_pb2.WORKER_ROLE_TRAINER,
            request_id=request_id,
        )
        generation = workers.RegisterWorker(request).worker.generation
        assert isinstance(generation, int)
        return generation

    worker = f"runs/{run_id}/workers/trainer"
    fields = {"worker": worker, "generation": register("one")}
    way = upload_way(channel, run_id, 1, len(DATA), DIGEST, **fields)
    assert put_part(way, DATA, 0, 200_000).status == 204
    fields = {"worker": worker, "generation": register("two")}
    found = put_part(way, DATA, 200_000, len(DATA))
    assert (found.status, found.reason) == (409, "STALE_GENERATION")
    nothing_is_left(port, channel, run_id)
    found = ask(upload_way(channel, run_id, 1, len(DATA), DIGEST, **fields), "PUT", DATA)
    assert committed(found).weight_version.pushed_generation == fields["generation"]


def test_one_upload_in_many_hands(port: ServerProcess, channel: grpc.Channel, run_id: str) -> None:
    """Connections that take the same upload from each other: it goes on, or is given up, whole."""
    data, digest = content(2 * MIB, seed=3)
    end = time.monotonic() + 1.5

    def work(way: Way, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                found = ask(way, "HEAD")
                if found.status == 401 or rng.random() < 0.02:
                    ask(way, "DELETE")
                    return
                begin = found.offset
                until_byte = min(len(data) - 1, begin + rng.randrange(1, MIB))
                if rng.random() < 0.5 and begin < until_byte:
                    put_part(way, data, begin, until_byte)

    number = 0
    while time.monotonic() < end:
        number += 1
        shared = upload_way(channel, run_id, number, len(data), digest)
        with ThreadPoolExecutor(4) as threads:
            for _ in threads.map(partial(work, shared), range(number, number + 4)):
                pass
        if ask(shared, "HEAD").status == 204:
            assert ask(shared, "DELETE").status == 204
        nothing_is_left(port, channel, run_id)
    port.assert_no_faults()
    committed(ask(upload_way(channel, run_id, number, len(data), digest), "PUT", data))


def test_transfers_may_finish_when_the_server_is_told_to_stop(tmp_path: Path, run_id: str) -> None:
    size = 24 * MIB
    data, digest = content(size, seed=4)
    with bulk_server(directory=tmp_path) as server, ThreadPoolExecutor(1) as threads:
        with open_channel(server.address) as channel:
            kept = push(channel, run_id, 1, size)
            reading = download_way(channel, run_id, 1)
            writing = upload_way(channel, run_id, 2, len(data), digest)
        with (
            open_socket(reading, SMALL_BUFFER) as reader,
            open_socket(writing) as writer,
            open_socket(reading),  # one that does nothing
        ):
            reader.sendall(head(reading, "GET"))
            first = reader.recv(100, 2)  # MSG_PEEK
            assert first.startswith(b"HTTP/1.1 200")
            writer.sendall(head(writing, "PUT", f"Content-Length: {len(data)}") + data[:MIB])
            until(lambda: partial_files(server, run_id))
            stopping = threads.submit(server.stop, signal.SIGTERM)
            until(lambda: "stopping" in server.log)
            sending = threading.Thread(target=writer.sendall, args=(data[MIB:],))
            sending.start()
            assert reply(reader).body == kept
            committed(reply(writer))
            sending.join()
        assert stopping.result() == 0
        server.assert_no_faults()
        server.start()
        with open_channel(server.address) as channel:
            assert ask(download_way(channel, run_id, 2), "GET").body == data


def test_a_transfer_that_does_not_finish_is_cut_at_the_end_of_the_grace(run_id: str) -> None:
    with bulk_server("--shutdown-grace", "0.3") as server:
        with open_channel(server.address) as channel:
            way = upload_way(channel, run_id, 1, len(DATA), ZERO_DIGEST)
        with open_socket(way) as sock:
            sock.sendall(head(way, "PUT", f"Content-Length: {len(DATA)}") + DATA[:200_000])
            until(lambda: partial_files(server, run_id))
            assert server.stop() == 0
            assert rest(sock) == b""
        assert not partial_files(server, run_id)
