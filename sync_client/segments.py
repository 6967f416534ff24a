"""The server's segments as a client writes them.

The server uses a few of them in turns. Mapping a GiB takes twice as long as copying into it (a page
table entry for every 4 KiB), so a mapping is kept, and the segment of the next push is mapped while
the trainer goes on, as soon as the server has said which one that is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sync_client.shared_memory import opened
from sync_client.transfer import Progress, Source

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_PIECE_BYTES = 4 << 20  # larger ones would have small tensors joined, in memory of their own
_THREADS = 2  # two cores write memory as fast as four
_PENDING = 8  # pieces that are on their way: of a tensor on a GPU each is a copy
_MADV_POPULATE_WRITE = 23  # not in the mmap module yet
_KEPT = 3  # a server with two versions and a spare has that many

Key = tuple[int, int]
"""Device and inode: the file has other names in the course of its life."""


class Segment:
    """One segment, open to be written. `memory`: None until it is mapped."""

    def __init__(self, key: Key, fd: int, size_bytes: int) -> None:
        """`fd` is the segment's own from then on."""
        self.key = key
        self.fd = fd
        self.size_bytes = size_bytes
        self.memory: mmap.mmap | None = None

    def map(self) -> None:
        """Maps it, with all of its pages. Raises OSError, ValueError."""
        memory = mmap.mmap(self.fd, self.size_bytes)
        with contextlib.suppress(OSError, ValueError):  # an old kernel: then page by page
            memory.madvise(_MADV_POPULATE_WRITE)
        self.memory = memory

    def write(self, start: int, data: NDArray[numpy.uint8]) -> None:
        """Copies bytes to where they belong. Several threads may."""
        import numpy

        assert self.memory is not None
        target = numpy.frombuffer(self.memory, numpy.uint8, len(data), start)
        numpy.copyto(target, data)

    def close(self) -> None:
        """Unmaps and closes it."""
        os.close(self.fd)
        if self.memory is not None:
            # An array of a failed copy may still hold it; then it goes with that one.
            with contextlib.suppress(BufferError):
                self.memory.close()


def fill(segment: Segment, source: Source, progress: Progress | None) -> None:
    """Copies the stream of `source` into a segment, on several threads."""
    import numpy  # only where tensors move

    position = 0
    pending: list[tuple[Future[None], int]] = []

    def settle(count: int) -> None:
        while len(pending) > count:
            copied, end = pending.pop(0)
            copied.result()
            if progress is not None:
                progress(end, segment.size_bytes)

    with ThreadPoolExecutor(_THREADS) as threads:
        for piece in source.chunks(_PIECE_BYTES):
            given: Any = numpy.frombuffer(piece, numpy.uint8)
            pending.append((threads.submit(segment.write, position, given), position + len(piece)))
            position += len(piece)
            settle(_PENDING)
        settle(0)


class Segments:
    """The segments that this client has met. `open`, fill, `let_go`; one push at a time each."""

    def __init__(self) -> None:
        self._known: dict[Key, Segment] = {}
        self._lock = threading.Lock()
        self._mapping: threading.Thread | None = None

    def open(self, path: str, size_bytes: int) -> Segment | None:
        """The segment at `path`; None where it can't be written from here."""
        self.join()  # it may just be the one
        return self._open(path, size_bytes)

    def _open(self, path: str, size_bytes: int) -> Segment | None:
        try:
            with opened(path, os.O_RDWR) as fd:
                found = os.fstat(fd)
                if found.st_size != size_bytes:
                    return None
                key = (found.st_dev, found.st_ino)
                with self._lock:
                    known = self._known.pop(key, None)
                if known is not None and known.size_bytes == size_bytes:
                    return known
                segment = Segment(key, os.dup(fd), size_bytes)
        except OSError:
            return None
        try:
            segment.map()
        except (OSError, ValueError):
            segment.close()
            return None
        return segment

    def expect(self, path: str, size_bytes: int) -> None:
        """Maps what the next push will go into, on another thread."""
        self.join()
        self._mapping = threading.Thread(
            target=self._map, args=(path, size_bytes), name="weightsync-map", daemon=True
        )
        self._mapping.start()

    def join(self) -> None:
        """Waits for what is being mapped."""
        if self._mapping is not None:
            self._mapping.join()

    def close(self) -> None:
        """Closes all of them."""
        self.join()
        with self._lock:
            known, self._known = list(self._known.values()), {}
        for segment in known:
            segment.close()

    def _map(self, path: str, size_bytes: int) -> None:
        segment = self._open(path, size_bytes)
        if segment is not None:
            self.let_go(segment)

    def let_go(self, segment: Segment) -> None:
        """It was filled, or not. Keeps it, and closes what is gone over there or too many."""
        with self._lock:
            self._known[segment.key] = segment
            gone = [s for s in self._known.values() if not os.fstat(s.fd).st_nlink]
            gone += list(self._known.values())[:-_KEPT]
            for old in dict.fromkeys(gone):
                del self._known[old.key]
        for old in dict.fromkeys(gone):
            old.close()
