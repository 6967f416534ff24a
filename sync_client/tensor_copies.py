"""Copies from memory into tensors, on several threads, hashed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy

from weightsync.digests import TensorDigester

_THREADS = 2  # two cores copy as fast as memory allows
_PIECE_BYTES = 1 << 20


def copy_all(jobs: Sequence[tuple[memoryview, memoryview]]) -> list[str]:
    """Copies each (target, source), all bytes of a tensor, and gives the tensors' digests."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(_copy_and_hash, jobs))


def _copy_and_hash(job: tuple[memoryview, memoryview]) -> str:
    """Copies a tensor's bytes, and gives the digest of what was written.

    Piece by piece, so that what is hashed is still in the processor's cache.
    """
    written = job[0]
    target, source = (numpy.frombuffer(view, numpy.uint8) for view in job)
    digester = TensorDigester()
    for start in range(0, len(source), _PIECE_BYTES):
        piece = slice(start, start + _PIECE_BYTES)
        numpy.copyto(target[piece], source[piece])
        digester.update(written[piece])
    return digester.digest()
