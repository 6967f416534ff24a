"""The default blob store: one safetensors file for each version under a directory.

On a disk a commit is write, fsync, rename, fsync of the directory; on tmpfs, which no crash of
the machine survives anyway, it is the rename alone. `<blob_dir>/<run>/<number>-<id>.safetensors`
is what any safetensors reader can open; `….partial` is a blob that is being received, and
`….spare`, on tmpfs only, a retired one that the next is written into (segments.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
from pathlib import Path

from sync_server.storage.base import BlobMissing, BlobReader, NoSpace, StorageError
from sync_server.storage.filesystems import free, is_tmpfs, sync_directory
from sync_server.storage.readers import DiskBlobReader, SegmentReader
from sync_server.storage.segments import Segment, SegmentPool

_BLOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/\d+-[0-9a-f]{16}\.safetensors")
_OURS = re.compile(r"\d+-[0-9a-f]{16}\.safetensors(\.partial|\.spare)?")
_PARTIAL = ".partial"
_MADV_POPULATE_WRITE = 23  # not in the mmap module yet
WINDOW_BYTES = 64 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskBlobStore:
    """Blobs under `directory`, which it locks against a second server."""

    def __init__(self, directory: Path) -> None:
        """Creates and locks the directory. Raises StorageError."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"can't write the blob directory {directory}: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = -1
            raise StorageError(f"another server uses the blob directory {directory}") from error
        self._directory = directory.resolve()
        self.in_memory = is_tmpfs(directory)
        self._sync = not self.in_memory
        self._pool = None if self._sync else SegmentPool()

    def create(self, run_id: str, number: int, size_bytes: int) -> DiskBlobWriter:
        """Reserves the space and maps it."""
        folder = self._directory / run_id
        blob_id = f"{run_id}/{number}-{secrets.token_hex(8)}.safetensors"
        if not _BLOB.fullmatch(blob_id):
            raise StorageError(f"{blob_id!r} is no blob id")
        try:
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                if self._sync:  # or a crash could take the whole folder along
                    sync_directory(self._directory)
            return DiskBlobWriter(self._directory, blob_id, size_bytes, self._pool)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoSpace(f"no room for {size_bytes} bytes in the blob directory") from error
            raise StorageError(f"can't write the blob directory: {error.strerror}") from error

    def spare(self, run_id: str, size_bytes: int) -> DiskBlobWriter | None:
        """On tmpfs: a file whose pages `warm` makes."""
        if self._pool is None or self._pool.has_spare(size_bytes):
            return None
        try:
            return self.create(run_id, 0, size_bytes)
        except NoSpace:
            return None  # the next push sees whether there is room by then

    def open(self, blob_id: str) -> BlobReader:
        """Maps a committed blob read-only, or shares the mapping that its upload left."""
        path = self._path(blob_id)
        if self._pool is not None:
            segment = self._pool.acquire(blob_id)
            if segment is not None:
                return SegmentReader(blob_id, segment, self._pool)
        try:
            return DiskBlobReader(path)
        except (OSError, ValueError) as error:
            raise BlobMissing(f"blob {blob_id} can't be read: {error}") from error

    def open_file(self, blob_id: str) -> int:
        """Opens the file, locked; looks then whether it still is the blob's."""
        path = self._path(blob_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False)):
                    raise BlobMissing(f"blob {blob_id} is gone")
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise BlobMissing(f"blob {blob_id} can't be read: {error.strerror}") from error
        return fd

    def path(self, blob_id: str) -> Path:
        """The file itself."""
        return self._path(blob_id)

    def delete(self, blob_id: str) -> None:
        """Unlinks the file, unless it becomes the spare."""
        path = self._path(blob_id)
        if self._pool is not None:
            self._pool.retire(blob_id)
        path.unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> list[str]:
        """Unlinks half uploads and what is not in `keep`."""
        if self._pool is not None:
            self._pool.drop_spares()
        gone = []
        for path in sorted(self._directory.glob("*/*")):
            name = f"{path.parent.name}/{path.name}"
            linked = path.is_symlink() or path.parent.is_symlink()
            if linked or not path.is_file() or not _OURS.fullmatch(path.name) or name in keep:
                continue
            path.unlink()
            if self._pool is not None:
                self._pool.forget(name)
            gone.append(name)
        return gone

    def close(self) -> None:
        """Unlocks the directory, and unlinks the spare."""
        if self._pool is not None:
            self._pool.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, blob_id: str) -> Path:
        if not _BLOB.fullmatch(blob_id):
            raise BlobMissing(f"{blob_id!r} is no blob id")
        return self._directory / blob_id


class DiskBlobWriter:
    """A reserved, mapped `.partial` file. `pool`: None on a disk, where commits are synced."""

    def __init__(
        self, directory: Path, blob_id: str, size_bytes: int, pool: SegmentPool | None
    ) -> None:
        self._blob_id = blob_id
        self._target = directory / blob_id
        self._partial = directory / (blob_id + _PARTIAL)
        self._pool = pool
        self._open = True
        spare = None if pool is None else pool.take(size_bytes, self._partial)
        self._segment = spare or self._create(size_bytes)
        self._view = memoryview(self._segment.map)

    def _create(self, size_bytes: int) -> Segment:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._partial, flags, 0o640)
        try:
            if size_bytes > free(fd) and not (self._make_room() and size_bytes <= free(fd)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(fd, size_bytes)
            return Segment(self._partial, fd, size_bytes)
        except BaseException:
            os.close(fd)
            self._partial.unlink(missing_ok=True)
            raise

    @property
    def view(self) -> memoryview:
        """All bytes, writable."""
        return self._view

    @property
    def path(self) -> Path | None:
        """The partial file."""
        return self._partial

    def prepare(self, offset: int) -> int:
        """Allocates and faults in the next window; in a spare everything is there already.

        Allocated, not sparse: running out of space must be an error here, never a SIGBUS in the
        middle of a write into the mapping. By window, so that the first byte need not wait for
        the last page: a fresh GiB of tmpfs takes half a second to two seconds.
        """
        segment = self._segment
        if offset < segment.warm:
            return segment.warm
        end = min(offset + WINDOW_BYTES, segment.size_bytes)
        start = offset - offset % mmap.PAGESIZE
        try:
            self._allocate(start, end - start)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoSpace(
                    f"no room for {segment.size_bytes} bytes in the blob directory"
                ) from error
            raise StorageError(f"can't write the blob directory: {error.strerror}") from error
        # Kernels before 5.14 do not know it; then the pages are faulted in one by one later.
        with contextlib.suppress(OSError):
            segment.map.madvise(_MADV_POPULATE_WRITE, start, end - start)
        segment.warm = end
        return end

    def commit(self) -> str:
        """Syncs and renames."""
        segment = self._segment
        try:
            if self._pool is None:
                segment.map.flush()
                os.fsync(segment.fd)
            segment.move(self._target)
            if self._pool is None:
                sync_directory(self._target.parent)
        except OSError as error:
            self.discard()
            for path in (self._partial, self._target):
                with contextlib.suppress(OSError):  # the sweep of the next start gets what is left
                    path.unlink(missing_ok=True)
            kind = NoSpace if error.errno in _NO_ROOM else StorageError
            raise kind(f"can't store the blob: {error.strerror}") from error
        self._let_go()
        if self._pool is None:
            segment.close()
        else:
            self._pool.keep(self._blob_id, segment)
        return self._blob_id

    def warm(self) -> None:
        """Makes all pages and keeps the file for the next blob of this size. On tmpfs only."""
        assert self._pool is not None
        try:
            while self._segment.warm < self._segment.size_bytes:
                self.prepare(self._segment.warm)
        except BaseException:
            self.discard()
            raise
        self._let_go()
        if not self._pool.add_spare(self._segment):
            self._partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """Unlinks the partial file."""
        if self._open:
            self._let_go()
            self._segment.close()
            self._partial.unlink(missing_ok=True)

    def _let_go(self) -> None:
        self._open = False
        # An array that somebody still holds keeps the mapping; the file goes all the same.
        with contextlib.suppress(BufferError):
            self._view.release()

    def _allocate(self, start: int, length: int) -> None:
        try:
            os.posix_fallocate(self._segment.fd, start, length)
        except OSError as error:
            if error.errno not in _NO_ROOM or not self._make_room():
                raise
            os.posix_fallocate(self._segment.fd, start, length)

    def _make_room(self) -> bool:
        return self._pool is not None and self._pool.drop_spares()
