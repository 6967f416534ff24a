"""Segments that clients of this host fill by themselves, in place of sending chunks.

PlanUpload hands one out. The client then opens the upload's stream, names the segment in its
header, fills it, and ends the stream; what lies in the segment is verified as if it had come in
chunks. A client that dies breaks its stream, and one that never opens it has a few seconds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sync_server.domain.errors import InvalidArgument
from sync_server.intake import UploadRequest
from sync_server.uploads import Uploaded, Uploads, UploadSession

_CLAIM_SECONDS = 10.0


class HandedOut:
    """The segments that are handed out and not claimed yet. Used on the event loop's thread."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._sessions: dict[str, tuple[UploadSession, asyncio.TimerHandle]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def plan(self, request: UploadRequest) -> Path | None:
        """Hands a segment out; None where no bytes are needed, or none can be written so.

        Raises what `Uploads.begin` raises, and StorageFull.
        """
        begun = await self._uploads.begin(request)
        if isinstance(begun, Uploaded):
            return None
        try:
            path = await begun.reserve()
        except BaseException:
            await asyncio.shield(self._uploads.abandon(begun))
            raise
        if path is None:
            await self._uploads.abandon(begun)
            return None
        timer = asyncio.get_running_loop().call_later(_CLAIM_SECONDS, self._expire, str(path))
        self._sessions[str(path)] = (begun, timer)
        return path

    def claim(self, path: str, request: UploadRequest) -> UploadSession:
        """The session of a segment, once. Raises InvalidArgument where it is not this request's."""
        found = self._sessions.get(path)
        if found is None or found[0].request != request:
            raise InvalidArgument(
                "segment: none such was handed out for this upload, or it was not used for "
                f"{_CLAIM_SECONDS:g} s; plan the upload again",
                field="segment",
            )
        session, timer = self._sessions.pop(path)
        timer.cancel()
        return session

    def _expire(self, path: str) -> None:
        session, _ = self._sessions.pop(path)
        task = asyncio.get_running_loop().create_task(self._uploads.abandon(session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Takes back what nobody claimed."""
        for path in list(self._sessions):
            self._sessions[path][1].cancel()
            self._expire(path)
        if self._ending:
            await asyncio.wait(self._ending)
