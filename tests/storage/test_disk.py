"""The directory of blobs: the contract on a disk and in memory, and what files can go through."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync_server.storage import disk
from sync_server.storage.base import BlobMissing, BlobStore, StorageError
from sync_server.storage.disk import DiskBlobStore
from tests.storage.blob_contract import BlobStoreContract, fill, get, put

SHM = Path("/dev/shm")
OURS = "5-0123456789abcdef.safetensors"


class TestOnDisk(BlobStoreContract):
    """The contract where pytest keeps its files."""

    def open_store(self, directory: Path) -> BlobStore:
        """As the server opens it."""
        return DiskBlobStore(directory)


@pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="there is no /dev/shm to write to")
class TestInMemory(TestOnDisk):
    """The contract on a tmpfs."""

    @pytest.fixture
    def directory(self) -> Iterator[Path]:
        """A directory in memory."""
        with tempfile.TemporaryDirectory(dir=SHM) as name:
            yield Path(name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskBlobStore]:
    """An empty store in a directory that does not exist yet."""
    opened = DiskBlobStore(tmp_path / "some" / "blobs")
    yield opened
    opened.close()


@pytest.fixture
def blobs(tmp_path: Path, store: DiskBlobStore) -> Path:
    """The directory of `store`."""
    return tmp_path / "some" / "blobs"


def test_a_blob_is_an_ordinary_file_under_its_run(store: DiskBlobStore, blobs: Path) -> None:
    blob_id = put(store, b"content", "my-run", 42)
    assert (blobs / blob_id).read_bytes() == b"content"
    assert blob_id.startswith("my-run/42-")
    assert blob_id.endswith(".safetensors")


def test_nothing_is_seen_under_the_final_name_before_the_commit(
    store: DiskBlobStore, blobs: Path
) -> None:
    writer = store.create("run", 5, 7)
    fill(writer, b"content")
    (path,) = (blobs / "run").iterdir()
    assert path.name.endswith(".safetensors.partial")
    blob_id = writer.commit()
    assert list((blobs / "run").iterdir()) == [blobs / blob_id]


def test_windows_follow_each_other_to_the_end(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "WINDOW_BYTES", 8192)
    writer = store.create("run", 5, 20_000)
    assert [writer.prepare(0), writer.prepare(8192), writer.prepare(16384)] == [
        8192,
        16384,
        20_000,
    ]
    writer.discard()
    assert get(store, put(store, bytes(range(250)) * 80)) == bytes(range(250)) * 80


def test_the_space_is_really_taken_before_bytes_are_written(
    store: DiskBlobStore, blobs: Path
) -> None:
    """A sparse file would end in a SIGBUS, in the middle of an upload, on a full disk."""
    writer = store.create("run", 5, 1 << 20)
    writer.prepare(0)
    (path,) = (blobs / "run").iterdir()
    assert path.stat().st_blocks * 512 >= 1 << 20
    writer.discard()


# --- other people's files


def test_the_sweep_touches_only_names_of_this_store(store: DiskBlobStore, blobs: Path) -> None:
    run = blobs / "run"
    run.mkdir()
    foreign = [
        blobs / "README",
        blobs / OURS,  # not under a run
        run / "model.safetensors",
        run / "5-xyz.safetensors",
        run / "x5-0123456789abcdef.safetensors",
        run / "5-0123456789abcdef.safetensors.partial.bak",
        run / "deeper" / OURS,
    ]
    (run / "deeper").mkdir()
    (run / ("6" + OURS[1:])).mkdir()  # a directory with a name like ours
    for path in foreign:
        path.write_text("precious")
    assert store.sweep(set()) == []
    assert all(path.read_text() == "precious" for path in foreign)
    assert (run / ("6" + OURS[1:])).is_dir()


def test_symlinks_are_neither_followed_nor_swept(
    store: DiskBlobStore, blobs: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / OURS).write_text("precious")
    (blobs / "linked-run").symlink_to(outside)
    (blobs / "run").mkdir()
    (blobs / "run" / OURS).symlink_to(outside / OURS)
    assert store.sweep(set()) == []
    assert (outside / OURS).read_text() == "precious"
    with pytest.raises(BlobMissing):
        store.open(f"run/{OURS}")
    store.delete(f"run/{OURS}")  # the link goes, what it pointed at does not
    assert (outside / OURS).read_text() == "precious"


# --- what goes wrong


@pytest.mark.parametrize("content", [None, b""])
def test_a_blob_whose_bytes_are_gone_is_missing(
    store: DiskBlobStore, blobs: Path, content: bytes | None
) -> None:
    blob_id = put(store, b"content")
    if content is None:
        (blobs / blob_id).unlink()
    else:
        (blobs / blob_id).write_bytes(content)
    with pytest.raises(BlobMissing, match=blob_id):
        store.open(blob_id)


def test_a_commit_that_fails_keeps_nothing(store: DiskBlobStore, blobs: Path) -> None:
    writer = store.create("run", 5, 7)
    fill(writer, b"content")
    shutil.rmtree(blobs / "run")
    with pytest.raises(StorageError, match="can't store the blob"):
        writer.commit()
    writer.discard()
    assert store.sweep(set()) == []
    assert get(store, put(store, b"content")) == b"content"


@pytest.mark.parametrize("below", ["", "below"])
def test_a_directory_that_can_not_be_made_is_said_in_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match="can't write the blob directory") as caught:
        DiskBlobStore(tmp_path / "file" / below)
    assert "\n" not in str(caught.value)


CRASHING_SERVER = """
import sys
from pathlib import Path
from sync_server.storage.disk import DiskBlobStore

store = DiskBlobStore(Path(sys.argv[1]))
done = store.create("run", 1, 8)
done.prepare(0)
done.view[:] = b"complete"
half = store.create("run", 2, 1 << 20)
half.prepare(0)
half.view[:4] = b"half"
print(done.commit(), flush=True)
sys.stdin.read()
"""


def test_a_killed_server_leaves_its_blobs_and_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING_SERVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        blob_id = process.stdout.readline().strip()
        with pytest.raises(StorageError, match="another server"):
            DiskBlobStore(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = DiskBlobStore(tmp_path)
    assert len(store.sweep({blob_id})) == 1
    assert list((tmp_path / "run").iterdir()) == [tmp_path / blob_id]
    assert get(store, blob_id) == b"complete"
    store.close()
