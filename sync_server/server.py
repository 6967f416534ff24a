"""The server process: builds the parts, serves, and shuts down in the right order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc.aio
import structlog
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sync_server.assembly import Assemblies
from sync_server.bulk.exchange import Parts
from sync_server.bulk.port import BulkPort
from sync_server.bulk.start import open_bulk_port
from sync_server.bulk.tickets import Tickets
from sync_server.catalog import Catalog
from sync_server.challenge import Challenge
from sync_server.config import ServerSettings
from sync_server.coordinator import Coordinator
from sync_server.domain.errors import DomainError
from sync_server.domain.leases import Instant
from sync_server.handed_out import HandedOut
from sync_server.journal import Journal
from sync_server.listener import Listener, StartError
from sync_server.meetings import MeetingRooms
from sync_server.plans import Offers, Plans
from sync_server.reconcile import reconcile
from sync_server.services import convert_uploads
from sync_server.services.health import HealthServicer
from sync_server.services.progress import ProgressServicer
from sync_server.services.rendezvous import RendezvousServicer
from sync_server.services.runs import RunServicer
from sync_server.services.status import ErrorInterceptor
from sync_server.services.weights import WeightServicer
from sync_server.services.workers import WorkerServicer
from sync_server.storage.base import StateStore, StorageError
from sync_server.storage.disk import DiskBlobStore
from sync_server.storage.memory import MemoryStateStore
from sync_server.storage.ownership import claim, lock
from sync_server.uploads import Uploads
from weightsync.v1 import (
    progress_pb2,
    progress_pb2_grpc,
    rendezvous_pb2,
    rendezvous_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
)

_log = structlog.get_logger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (runs_pb2, "RunService"),
        (workers_pb2, "WorkerService"),
        (weights_pb2, "WeightService"),
        (rendezvous_pb2, "RendezvousService"),
        (progress_pb2, "ProgressService"),
    )
)

WEIGHT_SERVICE = "weightsync.v1.WeightService"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # Above the largest chunk, so that one that is too large is refused with a reason of ours.
    ("grpc.max_receive_message_length", 16 << 20),
    # Otherwise a second server on the same port binds silently and takes half of the calls.
    ("grpc.so_reuseport", 0),
    # A burst of thousands of long polls would be cancelled.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Clients ping every 10 s; a server that allows less often answers GOAWAY too_many_pings and
    # cuts every parked call. (The option's C macro is called MIN_RECV_PING_INTERVAL, its name not.)
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client whose host vanished is noticed within 30 s, and its upload and waits with it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # How much of an upload may lie in memory unread. A window that grows by itself has no bound
    # that a server for many trainers could live with; 8 MiB lose no speed (docs/performance.md).
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 8 << 20),
    # A chunk comes in one frame instead of 64: less work in putting it together.
    ("grpc.http2.max_frame_size", 4 << 20),
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the server serves, as `host:port`; None: that plane is not served."""

    grpc: str
    http: str | None = None
    metrics: str | None = None


class Server:
    """One weightsync server. `start`, then `stop` once."""

    def __init__(
        self, settings: ServerSettings, clock: Callable[[], Instant] | None = None
    ) -> None:
        """`clock` takes the place of the real one in tests that let hours pass in a moment."""
        self._settings = settings
        self._clock = clock
        self._listener: Listener | None = None
        self._data_lock: IO[bytes] | None = None
        self._challenge: Challenge | None = None
        self._bulk: BulkPort | None = None

    async def start(self) -> Endpoints:
        """Restores the state and serves. Raises StartError."""
        settings = self._settings
        try:
            self._blobs = DiskBlobStore(settings.blobs)
            if settings.state_store != "memory":
                self._data_lock = lock(settings.data_dir)
            state = _open_state(settings)
            claim(settings.blobs, state.identity())
            self._coordinator = Coordinator(Journal(state), self._clock)
            await self._coordinator.start()
            await reconcile(self._coordinator, self._blobs)
        except (StorageError, DomainError) as error:
            raise StartError(str(error)) from error
        if settings.shared_memory:
            self._challenge = _challenge(settings.blobs)
        self._health = HealthServicer(self._coordinator)
        self._catalog = Catalog(self._blobs)
        self._coordinator.observe(self._catalog.on_event)
        self._rooms = MeetingRooms(self._coordinator)
        self._uploads = Uploads(
            self._coordinator,
            self._blobs,
            self._catalog,
            keep=settings.keep_versions,
            max_uploads=settings.max_uploads,
            max_header_bytes=settings.max_header_mib << 20,
        )
        self._handed_out = HandedOut(self._uploads)
        self._assemblies = Assemblies(
            self._uploads,
            self._blobs,
            wait_seconds=settings.shard_wait_seconds,
            max_header_bytes=settings.max_header_mib << 20,
        )
        self._offers = Offers(self._challenge)
        http = self._start_bulk_port()
        self._listener = Listener(self._build, settings.listen)
        endpoints = Endpoints(grpc=await self._listener.start(), http=http)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info(
            "serving",
            grpc=endpoints.grpc,
            http=endpoints.http,
            data_dir=str(settings.data_dir),
            blobs=str(settings.blobs),
        )
        return endpoints

    @property
    def failed(self) -> asyncio.Event:
        """Set when a started server can't serve any more."""
        assert self._listener is not None
        return self._listener.failed

    @property
    def coordinator(self) -> Coordinator:
        """The state of a started server."""
        return self._coordinator

    async def stop(self) -> None:
        """NOT_SERVING, then waiters are released, then calls end, then what is left is stored."""
        assert self._listener is not None
        _log.info("stopping")
        await self._health.enter_graceful_shutdown()
        # First the waits: `stop` would sit out the whole grace with them parked.
        self._coordinator.release_waiters()
        await asyncio.gather(
            self._listener.stop(self._settings.shutdown_grace),
            *(() if self._bulk is None else (self._bulk.stop(self._settings.shutdown_grace),)),
        )
        if self._challenge is not None:
            self._challenge.close()
        await self._handed_out.close()
        await self._assemblies.close()
        await self._uploads.close()
        await self._catalog.close()
        await self._coordinator.close()
        await asyncio.to_thread(self._blobs.close)
        if self._data_lock is not None:
            self._data_lock.close()
        _log.info("stopped")

    def _build(self) -> grpc.aio.Server:
        """A server with all services. It may be asked for again: see `listener.py`."""
        weights = WeightServicer(
            self._coordinator,
            self._uploads,
            self._catalog,
            Plans(self._coordinator, self._blobs, self._handed_out, self._offers),
            self._handed_out,
            self._assemblies,
            keep=self._settings.keep_versions,
        )
        server = grpc.aio.server(interceptors=(ErrorInterceptor(),), options=CHANNEL_OPTIONS)
        # The raw streams take the place of the generated handlers of the same methods: by coming
        # first among the generic ones, and (grpcio from 1.72 on) last among the registered ones.
        raw = weights.raw_stream_handlers()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(WEIGHT_SERVICE, raw),)
        )
        weights_pb2_grpc.add_WeightServiceServicer_to_server(weights, server)
        server.add_registered_method_handlers(WEIGHT_SERVICE, raw)
        runs_pb2_grpc.add_RunServiceServicer_to_server(
            RunServicer(self._coordinator, self._rooms), server
        )
        workers_pb2_grpc.add_WorkerServiceServicer_to_server(
            WorkerServicer(self._coordinator, self._catalog), server
        )
        rendezvous_pb2_grpc.add_RendezvousServiceServicer_to_server(
            RendezvousServicer(self._coordinator, self._rooms), server
        )
        progress_pb2_grpc.add_ProgressServiceServicer_to_server(
            ProgressServicer(self._coordinator), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        # With the details' descriptors at hand, grpcurl prints the reason of an error.
        assert error_details_pb2.DESCRIPTOR.name
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    def _start_bulk_port(self) -> str | None:
        """Serves HTTP, and gives where; None: not at all. Raises StartError."""
        tickets = Tickets(time.monotonic)
        parts = Parts(
            tickets,
            self._blobs,
            self._handed_out,
            asyncio.get_running_loop(),
            convert_uploads.as_json,
            self._settings.http_stall_seconds,
        )
        self._bulk = open_bulk_port(self._settings, parts)
        if self._bulk is None:
            return None
        url = self._settings.http_advertise or f"http://{self._bulk.address}"
        self._offers = Offers(self._challenge, tickets, url)
        self._bulk.start()
        return self._bulk.address

    async def _set_health(self, status: Any) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


def _challenge(directory: Path) -> Challenge | None:
    try:
        return Challenge(directory)
    except OSError as error:  # a full disk must not keep the server from serving what it has
        _log.warning("clients can't map versions: no challenge file", error=str(error))
        return None


def _open_state(settings: ServerSettings) -> StateStore:
    if settings.state_store == "memory":
        return MemoryStateStore()
    from sync_server.storage.sqlite import SqliteStateStore

    return SqliteStateStore(settings.data_dir / "state.sqlite3")
