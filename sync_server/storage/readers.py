"""Committed blobs of a directory, mapped to be read."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from sync_server.storage.segments import Segment, SegmentPool


class SegmentReader:
    """A reader of a segment that is mapped anyway."""

    def __init__(self, blob_id: str, segment: Segment, pool: SegmentPool) -> None:
        self._blob_id = blob_id
        self._segment = segment
        self._pool = pool
        self._open = True
        self._view = memoryview(segment.map).toreadonly()

    @property
    def view(self) -> memoryview:
        """All bytes, read-only."""
        return self._view

    def close(self) -> None:
        """Gives the segment back; a slice of the view that is still in use keeps its bytes."""
        if self._open:
            self._open = False
            with contextlib.suppress(BufferError):
                self._view.release()
            self._pool.release(self._blob_id, self._segment)


class DiskBlobReader:
    """A read-only mapping; survives the deletion of the file."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)

    @property
    def view(self) -> memoryview:
        """All bytes, read-only."""
        return self._view

    def close(self) -> None:
        """Unmaps, unless a slice of the view is still in use."""
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()
