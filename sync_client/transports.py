"""Which way bytes go: shared memory on the server's host, else HTTP, else gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from sync_client import errors
from sync_client.connection import Connection
from sync_client.http_pull import pull_http
from sync_client.http_push import push_http
from sync_client.shared_push import push_shared
from sync_client.transfer import (
    WORTH_A_PLAN,
    Progress,
    Received,
    Sink,
    Source,
    download,
    upload,
)
from weightsync.v1 import weights_pb2 as pb


async def push_bytes(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    source: Source,
    transport: str | None,
    progress: Progress | None,
) -> pb.UploadWeightsResponse:
    """Sends a version; `header` has its size and digest.

    Raises TransportUnavailable where only `transport` would do and does not, and what an upload
    raises.
    """
    response = None
    worth_it = transport is None and source.layout.total_bytes > WORTH_A_PLAN
    if transport == "shared-memory" or worth_it:

        async def shared() -> pb.UploadWeightsResponse | None:
            return await push_shared(connection, header, source, progress)

        response = await connection.retrying(shared)
    if response is None and (transport == "http" or worth_it):
        response = await push_http(connection, header, source, progress)
    if response is not None:
        return response
    _check_fallback(connection, transport)
    return await upload(connection, header, source, progress)


async def pull_bytes(
    connection: Connection,
    name: str,
    tensor_names: Sequence[str],
    sink: Sink,
    transport: str | None,
    progress: Progress | None,
) -> Received:
    """Fills `sink` with a version over the network. Raises as `push_bytes`."""
    if transport in (None, "http"):
        least = WORTH_A_PLAN if transport is None else 0
        received = await pull_http(connection, name, tensor_names, sink, progress, least)
        if received is not None:
            return received
    _check_fallback(connection, transport)
    return await download(connection, name, tensor_names, sink, progress)


def _check_fallback(connection: Connection, transport: str | None) -> None:
    if transport in (None, "grpc"):
        return
    why = {
        "http": "the server does not offer it, or its port can't be reached",
        "shared-memory": "the files of the server can't be written here",
    }
    raise errors.TransportUnavailable(
        f"{transport} with {connection.target.server}: {why[transport]}"
    )
