"""Files that are written again: when the next blob takes the place of a retired one, and when not.

What is at stake: whoever still reads the retired blob must never see a byte of the next one.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sync_server.storage import disk, segments
from sync_server.storage.disk import DiskBlobStore
from tests.storage.blob_contract import fill, get, put

SHM = Path("/dev/shm")
OLD, NEW = b"old weights " * 1000, b"new weights " * 1000
assert len(OLD) == len(NEW)

pytestmark = pytest.mark.skipif(
    not os.access(SHM, os.W_OK), reason="there is no /dev/shm to write to"
)


@pytest.fixture
def blobs() -> Iterator[Path]:
    """An empty directory on a tmpfs."""
    with tempfile.TemporaryDirectory(dir=SHM) as name:
        yield Path(name)


@pytest.fixture
def store(blobs: Path) -> Iterator[DiskBlobStore]:
    """A store in `blobs`."""
    opened = DiskBlobStore(blobs)
    yield opened
    opened.close()


def inode(blobs: Path, blob_id: str) -> int:
    """Which file it is, whatever its name."""
    return (blobs / blob_id).stat().st_ino


def spares(blobs: Path) -> list[Path]:
    """The spare files that lie there."""
    return list(blobs.glob("*/*.spare"))


def test_the_next_blob_of_the_size_takes_the_file_of_the_retired_one(
    store: DiskBlobStore, blobs: Path
) -> None:
    old = put(store, OLD, "one-run", 1)
    file = inode(blobs, old)
    store.delete(old)
    writer = store.create("another-run", 2, len(NEW))
    assert writer.prepare(0) == len(NEW)
    fill(writer, NEW)
    new = writer.commit()
    assert inode(blobs, new) == file
    assert get(store, new) == NEW == (blobs / new).read_bytes()
    assert not (blobs / old).exists()
    assert spares(blobs) == []


def test_a_blob_of_another_size_does_not(store: DiskBlobStore, blobs: Path) -> None:
    old = put(store, OLD)
    file = inode(blobs, old)
    store.delete(old)
    assert inode(blobs, put(store, NEW + b"!")) != file
    assert inode(blobs, put(store, NEW)) == file


def test_a_reader_keeps_what_it_reads(store: DiskBlobStore, blobs: Path) -> None:
    old = put(store, OLD)
    reader = store.open(old)
    store.delete(old)
    new = put(store, NEW)
    assert bytes(reader.view) == OLD
    assert get(store, new) == NEW
    reader.close()
    assert spares(blobs) == []


@pytest.mark.parametrize("as_array", [False, True])
def test_a_slice_that_outlives_its_reader_keeps_its_bytes(
    store: DiskBlobStore, blobs: Path, as_array: bool
) -> None:
    old = put(store, OLD)
    reader = store.open(old)
    held = np.frombuffer(reader.view, np.uint8)[:100] if as_array else reader.view[:100]
    reader.close()
    store.delete(old)
    new = put(store, NEW)
    assert bytes(held) == OLD[:100]
    assert get(store, new) == NEW


def test_another_process_keeps_a_file_that_it_has_locked(store: DiskBlobStore, blobs: Path) -> None:
    old = put(store, OLD)
    with (blobs / old).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # nobody holds it while it is served
        store.delete(old)
        new = put(store, NEW)
        assert file.read() == OLD
    assert not (blobs / old).exists()
    assert get(store, new) == NEW


def test_a_file_that_was_written_again_can_be_locked(store: DiskBlobStore, blobs: Path) -> None:
    store.delete(put(store, OLD))
    new = put(store, NEW)
    with (blobs / new).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_one_spare_is_kept_and_no_more(store: DiskBlobStore, blobs: Path) -> None:
    for blob_id in [put(store, OLD, number=number) for number in range(4)]:
        store.delete(blob_id)
    assert len(spares(blobs)) == 1
    store.close()
    assert spares(blobs) == []


def test_only_so_many_blobs_stay_mapped(
    store: DiskBlobStore, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_MAX_MAPPED", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    ids = [put(store, OLD, number=number) for number in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2
    assert all(get(store, blob_id) == OLD for blob_id in ids)
    for blob_id in ids:
        store.delete(blob_id)
    assert list(blobs.glob("*/*.safetensors")) == []


def test_an_upload_into_a_spare_that_is_given_up_leaves_nothing(
    store: DiskBlobStore, blobs: Path
) -> None:
    store.delete(put(store, OLD))
    writer = store.create("run", 7, len(NEW))
    writer.prepare(0)
    writer.view[:3] = b"abc"
    writer.discard()
    assert list((blobs / "run").iterdir()) == []
    assert get(store, put(store, NEW)) == NEW


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_spare_that_somebody_damaged_is_not_used(
    store: DiskBlobStore, blobs: Path, damage: str
) -> None:
    """Writing into a cut file would end the server with a SIGBUS."""
    store.delete(put(store, OLD))
    (spare,) = spares(blobs)
    if damage == "cut":
        os.truncate(spare, 100)
    else:
        spare.unlink()
    assert get(store, put(store, NEW)) == NEW


def test_the_spare_of_a_server_that_was_killed_is_swept(blobs: Path) -> None:
    left = blobs / "run" / "0-0123456789abcdef.safetensors.spare"
    left.parent.mkdir()
    left.write_bytes(OLD)
    store = DiskBlobStore(blobs)
    assert store.sweep(set()) == [f"run/{left.name}"]
    assert list(left.parent.iterdir()) == []
    store.close()


def test_on_a_disk_a_deleted_blob_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "is_tmpfs", lambda path: False)  # whatever tmp_path is
    store = DiskBlobStore(tmp_path)
    store.delete(put(store, OLD))
    assert list((tmp_path / "run").iterdir()) == []
    store.close()
