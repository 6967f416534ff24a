"""At the start: state and blobs are brought into line, whatever happened to either."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.versions import Version
from sync_server.storage.base import BlobMissing, BlobStore

_log = structlog.get_logger(__name__)


async def reconcile(coordinator: Coordinator, blobs: BlobStore) -> None:
    """Retires versions whose bytes are gone, then deletes blobs that no version knows.

    Bytes go when a tmpfs does, that is with a reboot: what can't be delivered is not offered.
    Raises StorageError, StorageFull.
    """
    for run in coordinator.runs():
        for version in run.versions.all():
            if version.reference is not None:  # its bytes were never here
                continue
            problem = await asyncio.to_thread(_problem, blobs, version)
            if not problem:
                continue
            _log.error("version lost", run=run.run_id, version=version.number, problem=problem)
            lose = partial(commands.lose_blob, number=version.number, blob_id=version.blob_id)
            await coordinator.transact(run.run_id, lose)
    kept = {version.blob_id for run in coordinator.runs() for version in run.versions.all()}
    swept = await asyncio.to_thread(blobs.sweep, kept)
    if swept:
        _log.info("forgot unfinished and orphaned blobs", count=len(swept))


def _problem(blobs: BlobStore, version: Version) -> str:
    """Why the bytes of a version can't be delivered, or ""."""
    try:
        reader = blobs.open(version.blob_id)
    except BlobMissing as error:
        return str(error)
    try:
        found = len(reader.view)
    finally:
        reader.close()
    return "" if found == version.size_bytes else f"{found} of {version.size_bytes} bytes"
