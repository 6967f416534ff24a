"""Runs under `unshare --mount`: what the stores do when a real file system of 1 MiB is full.

A script, not a test module: `test_full_disk.py` starts it with an empty directory, over which it
mounts the tiny disk, and with the name of one of its functions. Exit code 77: it may not mount.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sync_server.domain.runs import RunCreated, VersionCommitted
from sync_server.storage.base import NoSpace, StorageError
from sync_server.storage.disk import DiskBlobStore
from sync_server.storage.sqlite import SqliteStateStore
from tests.storage.records import VERSION, batch

MAY_NOT_MOUNT = 77


def a_blob_that_never_fits(disk: Path) -> None:
    """Is refused before a byte is accepted."""
    store = DiskBlobStore(disk)
    refused(lambda: store.create("run", 1, 2 << 20))
    assert list((disk / "run").iterdir()) == []


def two_blobs_of_which_one_fits(disk: Path) -> None:
    """The second is refused when its space is taken, not by a SIGBUS in its middle."""
    store = DiskBlobStore(disk)
    first, second = (store.create("run", number, 700 << 10) for number in (1, 2))
    assert first.prepare(0) == 700 << 10
    refused(lambda: second.prepare(0))
    second.discard()
    first.view[:] = b"1" * (700 << 10)
    blob_id = first.commit()
    assert list((disk / "run").iterdir()) == [disk / blob_id]
    store.delete(blob_id)
    third = store.create("run", 3, 700 << 10)  # the space is there again
    assert third.prepare(0) == 700 << 10
    third.view[:] = b"3" * (700 << 10)
    third.commit()


def a_spare_gives_way(disk: Path) -> None:
    """The file of a retired blob never takes the room that a new one needs."""
    store = DiskBlobStore(disk)
    retire(store, 600 << 10)
    big = store.create("run", 2, 900 << 10)  # does not fit beside it
    assert big.prepare(0) == 900 << 10
    big.discard()
    retire(store, 600 << 10)
    both = [store.create("run", number, 350 << 10) for number in (3, 4)]  # one fits beside it
    assert [writer.prepare(0) for writer in both] == [350 << 10] * 2
    for writer in both:
        writer.view[:] = b"x" * (350 << 10)
        writer.commit()


def retire(store: DiskBlobStore, size: int) -> None:
    """Leaves a spare of `size` bytes."""
    writer = store.create("run", 1, size)
    writer.prepare(0)
    store.delete(writer.commit())


def a_state_database_that_fills_the_disk(disk: Path) -> None:
    """Refuses, keeps everything that it acknowledged, and goes on once there is room."""
    store = SqliteStateStore(disk / "state.sqlite3")
    store.apply([batch(RunCreated())])
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (400 << 10))
    acknowledged = 1
    try:
        while True:
            item = replace(VERSION, number=acknowledged, tensor_digests=b"d" * 20_000)
            store.apply([batch(VersionCommitted(item), after=acknowledged, current=acknowledged)])
            acknowledged += 1
    except StorageError:
        pass  # as it should at some point: the disk is full
    assert acknowledged > 3
    check(store, acknowledged)
    ballast.unlink()
    item = replace(VERSION, number=acknowledged)
    store.apply([batch(VersionCommitted(item), after=acknowledged, current=acknowledged)])
    check(store, acknowledged + 1)
    store.close()
    check(SqliteStateStore(disk / "state.sqlite3"), acknowledged + 1)


def check(store: SqliteStateStore, revision: int) -> None:
    """Exactly what was acknowledged is there."""
    (stored,) = store.load()
    assert stored.revision == revision
    assert sorted(version.number for version in stored.versions) == [*range(1, revision)]


def refused(attempt: Callable[[], object]) -> None:
    """Fails unless there is no room."""
    try:
        attempt()
    except NoSpace:
        return
    raise AssertionError("there was room")


def main(directory: str, case: str) -> None:
    """Mounts and runs one case; the mount ends with this process and its namespace."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]
    if subprocess.run(mount, check=False).returncode:
        sys.exit(MAY_NOT_MOUNT)
    {run.__name__: run for run in CASES}[case](Path(directory))


CASES = (
    a_blob_that_never_fits,
    two_blobs_of_which_one_fits,
    a_spare_gives_way,
    a_state_database_that_fills_the_disk,
)

if __name__ == "__main__":
    main(*sys.argv[1:])
