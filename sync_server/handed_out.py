"""Uploads that were planned: whose bytes come by another way than the stream that commits them.

PlanUpload hands out a segment that a client of this host fills by itself, and a ticket for the bulk
port. With the segment the client opens the upload's stream, names the segment in its header, fills
it, and ends the stream; what lies there is verified as if it had come in chunks, and a client that
dies breaks its stream. On the bulk port an upload outlives its connection for a while, so that
a client whose link broke can go on where it was. What nobody uses is taken back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sync_server.domain.errors import InvalidArgument, InvalidTicket, UploadInProgress
from sync_server.intake import UploadRequest
from sync_server.upload_session import UploadSession
from sync_server.uploads import Uploaded, Uploads

_CLAIM_SECONDS = 10.0
RESUME_SECONDS = 30.0
"""How long an upload on the bulk port waits for its client to come back."""
_TAKEOVER_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class Planned:
    """An upload that waits for its bytes, or gets them on the bulk port."""

    session: UploadSession
    path: Path | None
    """The segment, where one was handed out."""
    upload_id: str = field(default_factory=lambda: secrets.token_hex(8))
    timer: asyncio.TimerHandle | None = None
    stop_feeder: Callable[[], None] | None = None
    """Ends the connection that feeds it; None: there is none."""
    free: asyncio.Event = field(default_factory=asyncio.Event)


class HandedOut:
    """The uploads that are planned and not finished. Used on the event loop's thread."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._planned: dict[str, Planned] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def plan(self, request: UploadRequest, *, segment: bool) -> Planned | Uploaded:
        """Admits an upload. Asked again, it is the same one; Uploaded: no bytes are needed.

        `segment`: with memory that the client can fill by itself, where there is such. Raises
        what `Uploads.begin` raises, and StorageFull.
        """
        for planned in self._planned.values():
            if planned.session.request == request and not planned.session.superseded:
                self._wait(planned, RESUME_SECONDS)
                return planned
        begun = await self._uploads.begin(request)
        if isinstance(begun, Uploaded):
            return begun
        try:
            for other in list(self._planned.values()):
                if other.session.superseded and other.stop_feeder is None:
                    await self.drop(other.upload_id)  # nobody can go on with it: it gives its room
            path = await begun.reserve() if segment else None
        except BaseException:
            await asyncio.shield(self._uploads.abandon(begun))
            raise
        planned = Planned(begun, path)
        self._planned[planned.upload_id] = planned
        self._wait(planned, _CLAIM_SECONDS)
        return planned

    def claim(self, path: str, request: UploadRequest) -> UploadSession:
        """The session of a segment, once.

        Raises InvalidArgument where it is not this request's, UploadInProgress where its bytes
        come on the bulk port.
        """
        for planned in self._planned.values():
            if str(planned.path) == path and planned.session.request == request:
                if planned.stop_feeder is not None:
                    raise UploadInProgress("a connection of the bulk port feeds this upload")
                self._forget(planned)
                return planned.session
        raise InvalidArgument(
            "segment: none such was handed out for this upload, or it was not used for "
            f"{_CLAIM_SECONDS:g} s; plan the upload again",
            field="segment",
        )

    async def acquire(self, upload_id: str, stop: Callable[[], None]) -> UploadSession:
        """The session, for one connection of the bulk port, until `release`.

        A connection that feeds it already is ended: its client is here again. Raises InvalidTicket
        where the upload is over, UploadInProgress.
        """
        planned = self._planned.get(upload_id)
        while planned is not None and planned.stop_feeder is not None:
            planned.stop_feeder()
            planned.free.clear()
            try:
                await asyncio.wait_for(planned.free.wait(), _TAKEOVER_SECONDS)
            except asyncio.TimeoutError as error:
                raise UploadInProgress("another connection feeds this upload") from error
            planned = self._planned.get(upload_id)
        if planned is None:
            raise InvalidTicket("the upload is over, or was given up: plan it again")
        planned.session.check()
        self._stop_timer(planned)
        planned.stop_feeder = stop
        planned.session.broken = False
        return planned.session

    async def release(self, upload_id: str) -> None:
        """The connection is gone, or done for now; another one may go on within a while."""
        planned = self._planned.get(upload_id)
        if planned is not None:
            planned.stop_feeder = None
            planned.session.broken = True
            planned.free.set()
            self._wait(planned, RESUME_SECONDS)

    async def finish(self, upload_id: str) -> Uploaded:
        """Commits what the acquired upload got, and ends it.

        Raises what `Uploads.finish` does, and InvalidTicket where the server ended it meanwhile.
        """
        planned = self._planned.get(upload_id)
        if planned is None:
            raise InvalidTicket("the upload was given up: plan it again")
        try:
            return await self._uploads.finish(planned.session)
        finally:
            await asyncio.shield(self.drop(upload_id))

    async def drop(self, upload_id: str) -> None:
        """Ends an upload, whatever came of it."""
        planned = self._planned.get(upload_id)
        if planned is not None:
            self._forget(planned)
            await self._uploads.abandon(planned.session)

    async def close(self) -> None:
        """Takes back what nobody claimed."""
        for planned in list(self._planned.values()):
            self._expire(planned)
        if self._ending:
            await asyncio.wait(self._ending)

    def _wait(self, planned: Planned, seconds: float) -> None:
        self._stop_timer(planned)
        if planned.stop_feeder is None:
            loop = asyncio.get_running_loop()
            planned.timer = loop.call_later(seconds, self._expire, planned)

    def _expire(self, planned: Planned) -> None:
        self._forget(planned)
        task = asyncio.get_running_loop().create_task(self._uploads.abandon(planned.session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _forget(self, planned: Planned) -> None:
        self._stop_timer(planned)
        planned.free.set()
        self._planned.pop(planned.upload_id, None)

    @staticmethod
    def _stop_timer(planned: Planned) -> None:
        if planned.timer is not None:
            planned.timer.cancel()
            planned.timer = None
