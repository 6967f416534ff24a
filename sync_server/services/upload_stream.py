"""UploadWeights: a whole version, one shard of one, or the word that a segment is filled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sync_server.assembly import Assemblies, ShardUpload
from sync_server.domain.errors import InvalidStream
from sync_server.handed_out import HandedOut
from sync_server.intake import UploadRequest
from sync_server.services import convert_uploads
from sync_server.upload_session import UploadSession
from sync_server.uploads import Uploaded, Uploads
from weightsync.frames import read_upload_frame
from weightsync.v1 import weights_pb2 as pb


class UploadStream:
    """Receives upload streams; see the .proto for the order of messages."""

    def __init__(self, uploads: Uploads, handed_out: HandedOut, assemblies: Assemblies) -> None:
        self._uploads = uploads
        self._handed_out = handed_out
        self._assemblies = assemblies

    async def receive(self, frames: AsyncIterator[bytes]) -> pb.UploadWeightsResponse:
        """Header, then chunks; committed at the end of the stream."""
        run_id, filled = "", False
        session: UploadSession | ShardUpload | None = None
        try:
            async for frame in frames:
                message = read_upload_frame(frame)
                if session is not None:
                    if isinstance(message, pb.UploadWeightsHeader):
                        raise InvalidStream("a second header: only chunks may follow the first")
                    if filled:
                        raise InvalidStream("a chunk: the bytes are in the segment that was named")
                    await session.write(message)
                    continue
                if not isinstance(message, pb.UploadWeightsHeader):
                    raise InvalidStream("the stream begins with a chunk: send the header first")
                request = convert_uploads.request(message)
                run_id = request.run_id
                if message.segment:
                    session = self._handed_out.claim(message.segment, request)
                    filled = True
                    continue
                begun = await self._begin(message, request)
                if isinstance(begun, Uploaded):
                    return convert_uploads.response(run_id, begun)
                session = begun
            if session is None:
                raise InvalidStream("the stream is empty: send the header first")
            if isinstance(session, ShardUpload):
                return convert_uploads.response(run_id, await session.finish())
            if filled:
                await session.adopt()
            uploaded = await self._uploads.finish(session)
            return convert_uploads.response(run_id, uploaded, segment=filled)
        finally:
            if isinstance(session, ShardUpload):
                await session.abandon()
            elif session is not None:
                await asyncio.shield(self._uploads.abandon(session))

    async def _begin(
        self, header: pb.UploadWeightsHeader, request: UploadRequest
    ) -> UploadSession | ShardUpload | Uploaded:
        if header.shard_count > 1:
            return await self._assemblies.join(request, header.shard_index, header.shard_count)
        return await self._uploads.begin(request)
