"""Who a data directory is used by, and which state a blob directory belongs to.

At its start a server deletes the blobs that its state does not know. With the wrong data directory
that would be all of them, so the directory remembers the state it was filled for.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from sync_server.storage.base import StorageError

_OWNER = ".owner"
_LOCK = ".lock"


def lock(directory: Path) -> IO[bytes]:
    """Makes the data directory and keeps a second server away until the handle is closed.

    Raises StorageError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = (directory / _LOCK).open("ab")
    except OSError as error:
        raise StorageError(
            f"can't write the data directory {directory}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise StorageError(f"another server uses the data directory {directory}") from error
    return handle


def claim(directory: Path, identity: str) -> None:
    """Takes the blob directory for the state `identity`.

    Raises StorageError if it belongs to another one and still holds blobs. To be called by who
    holds the directory's lock.
    """
    owner = directory / _OWNER
    try:
        found = owner.read_text(encoding="utf-8").strip() if owner.exists() else identity
        if found != identity:
            blobs = sum(1 for _ in directory.glob("*/*.safetensors"))
            if blobs and found != "memory":
                raise StorageError(
                    f"the blob directory {directory} holds {blobs} blobs of another data "
                    "directory: name that one (--data-dir), or another --blob-dir"
                )
        owner.write_text(identity + "\n", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"can't write the blob directory {directory}: {error}") from error
