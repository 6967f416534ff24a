"""Safetensors files as what is sent and what is filled; no torch."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sync_client.errors import LocalFileError
from weightsync.digests import StreamDigester
from weightsync.layout import Layout, LayoutError, header_size, parse

_PREFIX_BYTES = 8
_HASH_BYTES = 8 << 20


class FileSource:
    """A safetensors file to send as it is, mapped and never read into memory as a whole."""

    layout: Layout

    def __init__(self, path: Path) -> None:
        """Opens and checks the file. Raises LocalFileError."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header_size(file.read(_PREFIX_BYTES), size)
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self.layout = parse(memoryview(self._map), size)
        except (LayoutError, ValueError) as error:
            raise LocalFileError(f"{path} is no safetensors file: {error}") from error
        except OSError as error:
            raise LocalFileError(f"can't read {path}: {error.strerror}") from error
        self._view = memoryview(self._map)

    def digest(self) -> str:
        """The version digest of the file's tensors."""
        digester = StreamDigester(self.layout)
        for start in range(self.layout.data_offset, self.layout.total_bytes, _HASH_BYTES):
            digester.update(self._view[start : start + _HASH_BYTES])
        return digester.version_digest()

    def chunks(self, chunk_bytes: int, offset: int = 0) -> Iterator[memoryview]:
        """The file from `offset` on."""
        for start in range(offset, self.layout.total_bytes, chunk_bytes):
            yield self._view[start : start + chunk_bytes]

    def close(self) -> None:
        """Unmaps the file, unless a piece of it is still in use."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()


class FileSink:
    """Fills a safetensors file, which appears under its name when it is complete and right."""

    def __init__(self, path: Path) -> None:
        """Makes a temporary file beside `path`. Raises LocalFileError."""
        self._path = path
        try:
            fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        except OSError as error:
            raise LocalFileError(f"can't write {path}: {error.strerror}") from error
        self._partial = Path(name)
        self._file = os.fdopen(fd, "wb")
        self._digester: StreamDigester | None = None

    def begin(self, layout: Layout) -> None:
        """Writes the header; starts over if there was something."""
        self._file.seek(0)
        self._file.truncate()
        self._digester = StreamDigester(layout)
        self._write(memoryview(layout.header))

    def write(self, data: memoryview) -> None:
        """The next bytes of the data section. Raises LocalFileError where the disk is full."""
        assert self._digester is not None
        self._digester.update(data)
        self._write(data)

    def digest(self) -> str:
        """The version digest of what came."""
        assert self._digester is not None
        return self._digester.version_digest()

    def keep(self) -> None:
        """Gives the file its name. Raises LocalFileError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            mask = os.umask(0)
            os.umask(mask)
            self._partial.chmod(0o666 & ~mask)  # as any new file; mkstemp's are private
            self._partial.replace(self._path)
        except OSError as error:
            raise LocalFileError(f"can't write {self._path}: {error.strerror}") from error

    def discard(self) -> None:
        """Drops what there is. Safe to call after `keep`."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, data: memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise LocalFileError(f"can't write {self._path}: {error.strerror}") from error
