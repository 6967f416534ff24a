"""Where a client can read a version, or write one, best first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sync_server.bulk.tickets import Ticket, Tickets
from sync_server.challenge import Challenge
from sync_server.coordinator import Coordinator
from sync_server.domain.errors import InvalidArgument
from sync_server.domain.versions import Version
from sync_server.handed_out import HandedOut
from sync_server.intake import UploadRequest
from sync_server.storage.base import BlobStore
from sync_server.uploads import Uploaded
from weightsync import names

SHARED_MEMORY, HTTP, GRPC = "shared-memory", "http", "grpc"
TRANSPORTS = (SHARED_MEMORY, HTTP, GRPC)


@dataclass(frozen=True, slots=True)
class OnBulkPort:
    """A URL, the ticket for it, and when that ends (seconds since 1970)."""

    url: str
    ticket: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Mappable:
    """A file that a process of this host can map, and how it knows that it is the same one."""

    path: Path
    challenge: Challenge


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways besides the gRPC stream, which is always there."""

    shared_memory: Mappable | None = None
    http: OnBulkPort | None = None


@dataclass(frozen=True, slots=True)
class Offers:
    """What this server offers at all; None: not."""

    challenge: Challenge | None = None
    tickets: Tickets | None = None
    base_url: str = field(default="")


class Plans:
    """Answers where to go."""

    def __init__(
        self, coordinator: Coordinator, blobs: BlobStore, handed_out: HandedOut, offers: Offers
    ) -> None:
        self._coordinator = coordinator
        self._blobs = blobs
        self._handed_out = handed_out
        self._offers = offers

    def download(self, run_id: str, number: int, transports: Sequence[str]) -> tuple[Version, Ways]:
        """Raises what `VersionBook.get` raises, VersionElsewhere, and InvalidArgument."""
        wanted = _wanted(transports)
        version = self._coordinator.run(run_id).versions.get(number)
        version.check_here()
        path = self._blobs.path(version.blob_id)
        if path is None:
            return version, Ways()
        offers = self._offers
        mappable = on_port = None
        if offers.challenge is not None and SHARED_MEMORY in wanted:
            mappable = Mappable(path, offers.challenge)
        if HTTP in wanted:
            on_port = self._sign(
                Ticket("get", run_id, number, version.blob_id, version.size_bytes, version.digest)
            )
        return version, Ways(mappable, on_port)

    async def upload(
        self, request: UploadRequest, transports: Sequence[str]
    ) -> tuple[Version | None, Ways]:
        """Admits the upload where there is a better way than the stream.

        Gives the version where it exists already with the same digest.

        Raises what `HandedOut.plan` raises, and InvalidArgument.
        """
        wanted = _wanted(transports)
        challenge = self._offers.challenge if SHARED_MEMORY in wanted else None
        http = self._offers.tickets is not None and HTTP in wanted
        if challenge is None and not http:
            return None, Ways()
        planned = await self._handed_out.plan(request, segment=challenge is not None)
        if isinstance(planned, Uploaded):
            return planned.version, Ways()
        mappable = on_port = None
        if challenge is not None and planned.path is not None:
            mappable = Mappable(planned.path, challenge)
        if http:
            on_port = self._sign(
                Ticket(
                    "put",
                    request.run_id,
                    request.number,
                    planned.upload_id,
                    request.size_bytes,
                    request.digest,
                )
            )
        return None, Ways(mappable, on_port)

    def _sign(self, ticket: Ticket) -> OnBulkPort | None:
        tickets = self._offers.tickets
        if tickets is None:
            return None
        name = names.version_name(ticket.run_id, ticket.number)
        url = f"{self._offers.base_url}/v1/{name}"
        return OnBulkPort(url, tickets.sign(ticket), time.time() + tickets.ttl)


def _wanted(transports: Sequence[str]) -> Sequence[str]:
    for name in transports:
        if name not in TRANSPORTS:
            raise InvalidArgument(
                f"transport {name[:100]!r}: {', '.join(TRANSPORTS)} are known", field="transports"
            )
    return transports or TRANSPORTS
