"""The default blob store: one safetensors file for each version under a directory.

On a disk a commit is write, fsync, rename, fsync of the directory; on tmpfs, which no crash of
the machine survives anyway, it is the rename alone. `<blob_dir>/<run>/<number>-<id>.safetensors`
is what any safetensors reader can open; `….partial` is a blob that is being received.
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

from sync_server.storage.base import BlobMissing, NoSpace, StorageError

_BLOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/\d+-[0-9a-f]{16}\.safetensors")
_OURS = re.compile(r"\d+-[0-9a-f]{16}\.safetensors(\.partial)?")
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
        self._sync = not _is_tmpfs(directory)

    def create(self, run_id: str, number: int, size_bytes: int) -> DiskBlobWriter:
        """Reserves the space and maps it."""
        folder = self._directory / run_id
        blob_id = f"{run_id}/{number}-{secrets.token_hex(8)}.safetensors"
        try:
            folder.mkdir(exist_ok=True)
            return DiskBlobWriter(self._directory, blob_id, size_bytes, sync=self._sync)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoSpace(f"no room for {size_bytes} bytes in the blob directory") from error
            raise StorageError(f"can't write the blob directory: {error.strerror}") from error

    def open(self, blob_id: str) -> DiskBlobReader:
        """Maps a committed blob read-only."""
        try:
            return DiskBlobReader(self._path(blob_id))
        except (OSError, ValueError) as error:
            raise BlobMissing(f"blob {blob_id} can't be read: {error}") from error

    def delete(self, blob_id: str) -> None:
        """Unlinks the file."""
        self._path(blob_id).unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> list[str]:
        """Unlinks half uploads and what is not in `keep`."""
        gone = []
        for path in sorted(self._directory.glob("*/*")):
            name = f"{path.parent.name}/{path.name}"
            if path.is_symlink() or not _OURS.fullmatch(path.name) or name in keep:
                continue
            path.unlink()
            gone.append(name)
        return gone

    def close(self) -> None:
        """Unlocks the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, blob_id: str) -> Path:
        if not _BLOB.fullmatch(blob_id):
            raise BlobMissing(f"{blob_id!r} is no blob id")
        return self._directory / blob_id


class DiskBlobWriter:
    """A reserved, mapped `.partial` file."""

    def __init__(self, directory: Path, blob_id: str, size_bytes: int, *, sync: bool) -> None:
        self._blob_id = blob_id
        self._target = directory / blob_id
        self._partial = directory / (blob_id + _PARTIAL)
        self._sync = sync
        self._open = True
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._partial, flags, 0o640)
        try:
            free = os.fstatvfs(self._fd)
            if size_bytes > free.f_bavail * free.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(self._fd, size_bytes)
            self._map = mmap.mmap(self._fd, size_bytes)
        except BaseException:
            os.close(self._fd)
            self._partial.unlink(missing_ok=True)
            raise
        self._view = memoryview(self._map)

    @property
    def view(self) -> memoryview:
        """All bytes, writable."""
        return self._view

    def prepare(self, offset: int) -> int:
        """Allocates and faults in the next window.

        Allocated, not sparse: running out of space must be an error here, never a SIGBUS in the
        middle of a write into the mapping. By window, so that the first byte need not wait for
        the last page: a fresh GiB of tmpfs takes half a second.
        """
        end = min(offset + WINDOW_BYTES, len(self._view))
        start = offset - offset % mmap.PAGESIZE
        try:
            os.posix_fallocate(self._fd, start, end - start)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoSpace(
                    f"no room for {len(self._view)} bytes in the blob directory"
                ) from error
            raise StorageError(f"can't write the blob directory: {error.strerror}") from error
        # Kernels before 5.14 do not know it; then the pages are faulted in one by one later.
        with contextlib.suppress(OSError):
            self._map.madvise(_MADV_POPULATE_WRITE, start, end - start)
        return end

    def commit(self) -> str:
        """Syncs and renames."""
        try:
            if self._sync:
                self._map.flush()
                os.fsync(self._fd)
            self._release()
            self._partial.rename(self._target)
            if self._sync:
                _sync_directory(self._target.parent)
        except OSError as error:
            self.discard()
            self._partial.unlink(missing_ok=True)
            raise StorageError(f"can't store the blob: {error.strerror}") from error
        return self._blob_id

    def discard(self) -> None:
        """Unlinks the partial file."""
        if self._open:
            self._release()
            self._partial.unlink(missing_ok=True)

    def _release(self) -> None:
        self._open = False
        self._view.release()
        # A view that somebody still holds keeps the mapping; the file goes all the same.
        with contextlib.suppress(BufferError):
            self._map.close()
        os.close(self._fd)


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
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_tmpfs(path: Path) -> bool:
    # os.statvfs has no file system type; /proc/self/mountinfo names the mount that holds a path.
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0] in {"tmpfs", "ramfs"}
    return False
