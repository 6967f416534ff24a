"""Mapped files whose pages stay warm: a retired blob's file takes the next version's bytes.

A fresh page of tmpfs costs up to ten times the copy into it (docs/performance.md), and a trainer
pushes files of one size again and again. So on tmpfs the mapping that an upload filled serves the
downloads, and once the version is retired its file becomes the spare that the next upload of that
size is written into.

Nobody may read a segment that is written again. It becomes the spare only when no reader of this
process is left, no view of the mapping is held, and an exclusive `flock` on the file is to be had.
A program that maps a blob file by itself holds a shared `flock` on it for as long as it reads;
then the file is deleted instead, and its pages live as long as that mapping does.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import threading
from pathlib import Path

_SPARE = ".safetensors.spare"
_MAX_SPARES = 1  # a push needs room for one version beside the kept ones anyway
_MAX_MAPPED = 64  # each takes a file descriptor; of many small runs only the latest stay mapped


class Segment:
    """A file of fixed size and its one writable mapping, which outlives uploads and downloads."""

    def __init__(self, path: Path, fd: int, size_bytes: int) -> None:
        """Maps `fd`, which is the segment's own from then on. Raises OSError, ValueError."""
        self.path = path
        self.fd = fd
        self.map = mmap.mmap(fd, size_bytes)
        self.size_bytes = size_bytes
        self.warm = 0
        """Up to where there are pages."""
        self.readers = 0

    def close_fd(self) -> None:
        """The mapping is enough to read. Ends a lock that was taken through this descriptor."""
        if self.fd >= 0:
            # The mapping has a duplicate of the descriptor it was made of, and the lock with it.
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Lets go of the file, and of the mapping unless somebody holds a view of it."""
        self.close_fd()
        with contextlib.suppress(BufferError):
            self.map.close()

    def move(self, path: Path) -> None:
        """Renames the file. Raises OSError."""
        self.path.rename(path)
        self.path = path

    def is_there(self) -> bool:
        """Whether the path still leads to the whole file: touching a cut one would be a SIGBUS."""
        try:
            found = self.path.stat(follow_symlinks=False)
        except OSError:
            return False
        return found.st_size == self.size_bytes

    def is_held(self) -> bool:
        """Whether somebody holds a view of the mapping, or an array on top of one."""
        try:
            self.map.resize(self.size_bytes)  # to the size that it has: only asks
        except BufferError:
            return True
        return False


class SegmentPool:
    """The segments of committed blobs, and the spare. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, Segment] = {}
        self._spares: list[Segment] = []

    def take(self, size_bytes: int, path: Path) -> Segment | None:
        """A spare of exactly this size, moved to `path`; None where there is none."""
        with self._lock:
            fitting = [s for s in self._spares if s.size_bytes == size_bytes]
            if not fitting:
                return None
            segment = fitting[0]
            self._spares.remove(segment)
        try:
            if segment.is_there():
                segment.move(path)
                return segment
        except OSError:
            pass  # somebody tidied the directory up
        segment.close()
        return None

    def keep(self, blob_id: str, segment: Segment) -> None:
        """A committed blob: its mapping serves the readers."""
        segment.close_fd()
        with self._lock:
            self._blobs[blob_id] = segment
            oldest = list(self._blobs)[:-_MAX_MAPPED]
        for old in oldest:
            self.forget(old)

    def acquire(self, blob_id: str) -> Segment | None:
        """The blob's segment for one reader, until `release`; None where it is not mapped."""
        with self._lock:
            segment = self._blobs.get(blob_id)
            if segment is None or not segment.is_there():
                return None
            segment.readers += 1
            return segment

    def release(self, blob_id: str, segment: Segment) -> None:
        """A reader is done."""
        with self._lock:
            segment.readers -= 1
            unused = not segment.readers and self._blobs.get(blob_id) is not segment
        if unused:
            segment.close()

    def retire(self, blob_id: str) -> None:
        """The blob is deleted: its file becomes the spare, or is left where it is to be unlinked.

        A segment that is still read is let go with its last reader.
        """
        with self._lock:
            segment = self._blobs.pop(blob_id, None)
            if segment is None or segment.readers:
                return
        self.add_spare(segment)

    def has_spare(self, size_bytes: int) -> bool:
        """Whether `take` would give one."""
        with self._lock:
            return any(segment.size_bytes == size_bytes for segment in self._spares)

    def add_spare(self, segment: Segment) -> bool:
        """A segment that nobody needs any more; False: somebody reads it, and it is let go."""
        if not _spared(segment):
            segment.close()
            return False
        with self._lock:
            self._spares.append(segment)
            surplus = self._spares[:-_MAX_SPARES]
            del self._spares[:-_MAX_SPARES]
        _drop(surplus)
        return True

    def forget(self, blob_id: str) -> None:
        """Unmaps a blob once nobody reads it. Its file does not become the spare any more."""
        with self._lock:
            segment = self._blobs.pop(blob_id, None)
            if segment is None or segment.readers:
                return
        segment.close()

    def drop_spares(self) -> bool:
        """Gives the spare's room back; whether there was one."""
        with self._lock:
            spares, self._spares = self._spares, []
        _drop(spares)
        return bool(spares)

    def close(self) -> None:
        """Drops the spare and unmaps what nobody reads."""
        self.drop_spares()
        with self._lock:
            blobs = list(self._blobs)
        for blob_id in blobs:
            self.forget(blob_id)


def _spared(segment: Segment) -> bool:
    if segment.is_held():
        return False
    try:
        if segment.fd < 0:
            segment.fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A new name: who still has the blob's path must find nothing there.
        segment.move(segment.path.with_name(f"0-{secrets.token_hex(8)}{_SPARE}"))
    except OSError:
        return False  # another process reads it, or somebody tidied the directory up
    return True


def _drop(segments: list[Segment]) -> None:
    for segment in segments:
        with contextlib.suppress(OSError):  # the sweep of the next start gets what is left
            segment.path.unlink(missing_ok=True)
        segment.close()
