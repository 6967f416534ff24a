"""Directories that can't be written, or hardly: real file systems in a name space of their own."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

_TMPFS = 'mount -t tmpfs -o "size=$2" none "$1" && shift 2 && exec "$@"'
_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def small(directory: Path, size: str) -> tuple[str, ...]:
    """What to put before a command so that it sees an empty tmpfs of `size` on `directory`."""
    return _mounting(_TMPFS, str(directory), size)


def read_only(directory: Path) -> tuple[str, ...]:
    """What to put before a command so that it can't write `directory`, not even as root."""
    return _mounting(_READ_ONLY, str(directory))


def _mounting(script: str, *arguments: str) -> tuple[str, ...]:
    if not _can_mount():
        pytest.skip("mounting needs root and a name space of one's own")
    return ("unshare", "--mount", "sh", "-c", script, "sh", *arguments)


@cache
def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0
