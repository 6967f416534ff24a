"""What every BlobStore does. A kind of store supplies `open_store` and is held to all of it."""

from __future__ import annotations

import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sync_server.storage.base import BlobMissing, BlobStore, BlobWriter, NoSpace, StorageError

BAD_IDS = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    ".lock",
    "run",
    "run/",
    "run/../../x",
    "../run/5-0123456789abcdef.safetensors",
    "run/sub/5-0123456789abcdef.safetensors",
    "run/5-0123456789abcdef.safetensors.partial",
    "run/5-0123456789abcdef.safetensors\n",
    "run/5-0123456789ABCDEF.safetensors",
    "run/5-0123456789abcdef",
    "run/x\x00/5-0123456789abcdef.safetensors",
    "-run/5-0123456789abcdef.safetensors",
]


def fill(writer: BlobWriter, content: bytes) -> None:
    """Receives `content`, window by window."""
    offset = 0
    while offset < len(content):
        end = writer.prepare(offset)
        assert offset < end <= len(content)
        writer.view[offset:end] = content[offset:end]
        offset = end


def put(store: BlobStore, content: bytes, run_id: str = "run", number: int = 5) -> str:
    """A committed blob."""
    writer = store.create(run_id, number, len(content))
    fill(writer, content)
    return writer.commit()


def get(store: BlobStore, blob_id: str) -> bytes:
    """All bytes of a blob."""
    reader = store.open(blob_id)
    try:
        return bytes(reader.view)
    finally:
        reader.close()


class BlobStoreContract(ABC):
    """Tests of one kind of store."""

    @abstractmethod
    def open_store(self, directory: Path) -> BlobStore:
        """A store that keeps its blobs in `directory`."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """Where the blobs are kept."""
        return tmp_path

    @pytest.fixture
    def store(self, directory: Path) -> Iterator[BlobStore]:
        """An empty store."""
        opened = self.open_store(directory)
        yield opened
        opened.close()

    @pytest.mark.parametrize("size", [1, 10, 4095, 4096, 4097, 3 * 4096 + 1])
    def test_what_was_written_is_read(self, store: BlobStore, size: int) -> None:
        content = bytes(index * 7 % 256 for index in range(size))
        assert get(store, put(store, content)) == content

    def test_a_reader_can_not_write(self, store: BlobStore) -> None:
        reader = store.open(put(store, b"content"))
        assert reader.view.readonly
        with pytest.raises(TypeError):
            reader.view[0] = 1
        reader.close()
        reader.close()

    def test_the_same_number_gets_another_id(self, store: BlobStore) -> None:
        first, second = put(store, b"first"), put(store, b"second")
        assert first != second
        assert (get(store, first), get(store, second)) == (b"first", b"second")

    def test_blobs_outlive_the_store_object(self, directory: Path) -> None:
        store = self.open_store(directory)
        blob_id = put(store, b"content")
        store.close()
        store.close()
        again = self.open_store(directory)
        assert get(again, blob_id) == b"content"
        again.close()

    def test_two_writers_do_not_meet(self, store: BlobStore) -> None:
        writers = [store.create("run", 5, 8) for _ in range(2)]
        for writer, content in zip(writers, (b"aaaaaaaa", b"bbbbbbbb"), strict=True):
            fill(writer, content)
        ids = [writer.commit() for writer in reversed(writers)]
        assert [get(store, blob_id) for blob_id in ids] == [b"bbbbbbbb", b"aaaaaaaa"]

    def test_bytes_are_written_while_the_next_window_is_prepared(self, store: BlobStore) -> None:
        content = bytes(range(256)) * 64
        writer = store.create("run", 5, len(content))
        writer.prepare(0)
        preparing = threading.Thread(target=writer.prepare, args=(4097,))
        preparing.start()
        writer.view[:4097] = content[:4097]
        preparing.join()
        writer.view[4097:] = content[4097:]
        assert get(store, writer.commit()) == content

    # --- deletion

    def test_deleting(self, store: BlobStore) -> None:
        blob_id = put(store, b"content")
        store.delete(blob_id)
        store.delete(blob_id)
        with pytest.raises(BlobMissing):
            store.open(blob_id)

    def test_readers_go_on_after_the_deletion(self, store: BlobStore) -> None:
        content = bytes(range(256)) * 100
        blob_id = put(store, content)
        readers = [store.open(blob_id) for _ in range(3)]
        store.delete(blob_id)
        for reader in readers:
            assert bytes(reader.view) == content
            reader.close()

    @pytest.mark.parametrize("held", ["the reader", "a slice", "an array"])
    def test_what_is_still_read_is_never_written_again(self, store: BlobStore, held: str) -> None:
        """A store that uses the memory of a deleted blob again must be sure that it is free."""
        content = bytes(range(256)) * 64
        blob_id = put(store, content)
        reader = store.open(blob_id)
        view = reader.view if held == "the reader" else reader.view[100:9000]
        seen = np.frombuffer(view, np.uint8) if held == "an array" else view
        before = bytes(seen)
        if held != "the reader":
            del view
            reader.close()
        store.delete(blob_id)
        for fresh in (b"\x11", b"\x22", b"\x33"):
            new = put(store, fresh * len(content))
            assert get(store, new) == fresh * len(content)
            store.delete(new)
            assert bytes(seen) == before

    def test_what_is_discarded_leaves_nothing(self, store: BlobStore) -> None:
        writer = store.create("run", 5, 100)
        fill(writer, b"x" * 100)
        writer.discard()
        writer.discard()
        assert store.sweep(set()) == []

    def test_discarding_after_the_commit_does_nothing(self, store: BlobStore) -> None:
        writer = store.create("run", 5, 7)
        fill(writer, b"content")
        blob_id = writer.commit()
        writer.discard()
        assert get(store, blob_id) == b"content"

    def test_a_held_view_hinders_neither_the_commit_nor_the_close(self, store: BlobStore) -> None:
        """An array on top of the bytes must not make a complete upload fail."""
        writer = store.create("run", 5, 8)
        fill(writer, b"AAAABBBB")
        piece, written = writer.view[2:5], np.frombuffer(writer.view, np.uint8)
        blob_id = writer.commit()
        reader = store.open(blob_id)
        read = np.frombuffer(reader.view, np.uint8)
        reader.close()
        store.delete(blob_id)
        assert bytes(piece) == b"AAB"
        assert written.tobytes() == read.tobytes() == b"AAAABBBB"

    # --- the sweep

    def test_the_sweep_takes_what_nobody_keeps(self, store: BlobStore) -> None:
        kept = put(store, b"kept")
        orphans = {put(store, b"orphan"), put(store, b"orphan", "other", 2**63 - 1)}
        assert set(store.sweep({kept})) == orphans
        assert get(store, kept) == b"kept"
        for orphan in orphans:
            with pytest.raises(BlobMissing):
                store.open(orphan)
        assert store.sweep({kept}) == []

    def test_the_sweep_takes_half_uploads(self, store: BlobStore) -> None:
        writer = store.create("run", 5, 100)
        writer.prepare(0)
        writer.view[:3] = b"abc"
        assert len(store.sweep(set())) == 1
        writer.discard()

    # --- refusals

    @pytest.mark.parametrize("blob_id", BAD_IDS)
    def test_an_id_that_the_store_did_not_give_is_refused(
        self, store: BlobStore, blob_id: str
    ) -> None:
        with pytest.raises(BlobMissing):
            store.open(blob_id)
        with pytest.raises(BlobMissing):
            store.delete(blob_id)

    @pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "/tmp", "a\x00b", "a\n"])
    def test_a_run_can_not_lead_out_of_the_store(self, store: BlobStore, run_id: str) -> None:
        with pytest.raises(StorageError):
            store.create(run_id, 5, 10)

    def test_a_blob_beyond_the_free_space_is_refused_at_once(
        self, store: BlobStore, directory: Path
    ) -> None:
        with pytest.raises(NoSpace):
            store.create("run", 5, shutil.disk_usage(directory).free + (64 << 30))
        with pytest.raises(NoSpace):
            store.create("run", 5, 2**62)
        assert store.sweep(set()) == []

    def test_a_second_server_on_the_same_blobs_is_refused(self, directory: Path) -> None:
        store = self.open_store(directory)
        with pytest.raises(StorageError, match="another server"):
            self.open_store(directory)
        blob_id = put(store, b"content")  # the first one goes on
        store.close()
        second = self.open_store(directory)
        assert get(second, blob_id) == b"content"
        second.close()
