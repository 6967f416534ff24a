"""How a client proves to itself that it sees the same files as the server.

A path alone says nothing: on another host, or in another container, it may be another file. So the
server writes random bytes into a file beside the blobs and tells them to the client, which reads
them back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_PREFIX = ".challenge-"
_BYTES = 32


class Challenge:
    """Random bytes in a file of the blob directory, from `__init__` to `close`."""

    def __init__(self, directory: Path) -> None:
        """Writes the file, and removes those of servers that died. Raises OSError."""
        directory = directory.resolve()
        for stale in directory.glob(f"{_PREFIX}*"):
            stale.unlink(missing_ok=True)
        self.content = secrets.token_bytes(_BYTES)
        self.path = directory / f"{_PREFIX}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o640)
        try:
            os.write(fd, self.content)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Removes the file. Safe to call twice."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
