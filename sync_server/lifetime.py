"""A server for one job: it ends when no process holds a lock on a file any more."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

from sync_server.listener import StartError

_LOOK_SECONDS = 1.0


async def unlocked(path: Path) -> None:
    """Returns once nobody has a lock (flock) on the file, and keeps it to the end of the process.

    So whoever comes now waits until this server is gone, and then starts another. The kernel frees
    the lock of a process that dies. Raises StartError where the file can't be opened.
    """
    try:
        handle = path.open("ab")  # never closed: the lock goes with the process
    except OSError as error:
        raise StartError(f"can't open {path}: {error.strerror}") from error
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            _kept.append(handle)
            return


_kept: list[object] = []
