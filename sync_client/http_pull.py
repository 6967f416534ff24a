"""Pulls from the bulk port: the socket is read straight into the tensors' memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

from sync_client import errors
from sync_client.connection import Connection, Patience
from sync_client.http_fetch import Fetch
from sync_client.http_way import HttpWay
from sync_client.http_wire import Job, Place, run
from sync_client.transfer import Progress, Received, Sink
from weightsync.digests import version_digest
from weightsync.layout import LayoutError
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

_STUB = weights_pb2_grpc.WeightServiceStub
_STEP_BYTES = 16 << 20  # of an iterator: a request costs what 2 MiB cost


async def pull_http(
    connection: Connection,
    name: str,
    tensor_names: Sequence[str],
    sink: Sink,
    progress: Progress | None,
    least_bytes: int = 0,
) -> Received | None:
    """Fills `sink` over HTTP and verifies it.

    None where that can't be done here, or the version is smaller than `least_bytes`.

    What broke is resumed where it was; what does not have its digest is fetched once more. Raises
    what a download raises.
    """
    wire_bytes = 0
    for attempt in (1, 2):
        fetch: Fetch | None = None
        problem = ""
        try:
            async for fetch in _steps(
                connection, name, tensor_names, sink, progress, None, least_bytes
            ):
                problem = await _problem(connection, fetch)
        except LayoutError as error:
            problem = f"the received header is damaged: {error}"
        if fetch is None and not problem:
            return None
        if fetch is not None:
            wire_bytes += fetch.received
            if not problem:
                return Received(fetch.version, wire_bytes, "http") if fetch.over else None
        if attempt == 2:
            raise errors.DigestMismatch(f"{name}: {problem}")
    raise AssertionError("unreachable")


async def iter_http(
    connection: Connection, name: str, tensor_names: Sequence[str], sink: Sink
) -> AsyncIterator[None]:
    """Fills `sink` step by step, and yields after each of them.

    Ends at once, with nothing in the sink, where that can't be done here. Raises what a download
    raises, and ServerUnavailable where the port is gone in the middle.
    """
    over = True
    async for fetch in _steps(connection, name, tensor_names, sink, None, _STEP_BYTES, 0):
        over = fetch.over
        yield
    if not over:
        raise errors.ServerUnavailable(f"the HTTP port is out of reach in the middle of {name}")


async def _steps(
    connection: Connection,
    name: str,
    tensor_names: Sequence[str],
    sink: Sink,
    progress: Progress | None,
    limit: int | None,
    least_bytes: int,
) -> AsyncIterator[Fetch]:
    """Fetches `limit` bytes at a time, resumes what broke, and yields after each step.

    It ends when all came, or where there is no way over HTTP (any more).
    """
    way = HttpWay.of(connection)
    patience = Patience(connection.retry_for)
    fetch: Fetch | None = None
    place: Place | None = None
    while way.open:
        if place is None:
            plan = await _plan(connection, way, name, tensor_names)
            if plan is None or plan[0].size_bytes < least_bytes:
                return
            version, place = plan
            if fetch is None:
                fetch = Fetch(version, tensor_names, sink, progress)
            elif version.digest != fetch.version.digest:
                raise errors.VersionExists(f"{name} now has other bytes ({version.digest})")
        assert fetch is not None
        before = fetch.done
        job = Job(way.pool)
        try:
            await run(job, partial(fetch.run, job, place, limit))
        except (errors.ServerUnavailable, errors.InvalidTicket) as error:
            place = None  # a server that was started again has another port, and other tickets
            if way.failed(error):
                return
            if fetch.done > before:  # it moves: be patient anew
                patience = Patience(connection.retry_for)
            if not await patience.pause():
                raise
            continue
        way.worked()
        yield fetch
        if fetch.over:
            return


async def _plan(
    connection: Connection, way: HttpWay, name: str, tensor_names: Sequence[str]
) -> tuple[pb.WeightVersion, Place] | None:
    request = pb.PlanDownloadRequest(name=name, tensor_names=tensor_names, transports=["http"])
    try:
        plan = await connection.call(_STUB, "PlanDownload", request)
    except errors.Unimplemented:
        way.close("the server is of an earlier release")
        return None
    offers = [p.http for p in plan.locations if p.HasField("http")]
    if not offers:
        return None
    return plan.weight_version, Place.of(offers[0], connection.target.server)


async def _problem(connection: Connection, fetch: Fetch) -> str:
    """What is wrong with the bytes that came; "" where nothing is."""
    expected = fetch.version.digest
    if fetch.tensor_names:
        assert fetch.layout is not None
        digests = await _tensor_digests(connection, fetch.version.name)
        expected = version_digest(
            (entry.name, entry.dtype, entry.shape, digests.get(entry.name, ""))
            for entry in fetch.layout.tensors
        )
    if fetch.digest == expected:
        return ""
    return f"the received tensors have digest {fetch.digest}, not {expected}"


async def _tensor_digests(connection: Connection, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    token = ""
    while True:
        request = pb.ListTensorsRequest(name=name, page_token=token)
        page = await connection.call(_STUB, "ListTensors", request)
        found.update((tensor.name, tensor.digest) for tensor in page.tensors)
        token = page.next_page_token
        if not token:
            return found
