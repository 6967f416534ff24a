"""What is asked of the file system under the blobs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free(fd: int) -> int:
    """How many bytes there is room for."""
    room = os.fstatvfs(fd)
    return room.f_bavail * room.f_frsize


def sync_directory(path: Path) -> None:
    """Makes what happened to the names in a directory survive a crash."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_tmpfs(path: Path) -> bool:
    """Whether the bytes of a directory are in memory."""
    # os.statvfs has no file system type; /proc/self/mountinfo names the mount that holds a path.
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0] in {"tmpfs", "ramfs"}
    return False
