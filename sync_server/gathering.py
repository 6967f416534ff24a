"""What is known of a version while its shards come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from sync_server.domain.errors import DigestMismatch
from sync_server.domain.shards import missing
from sync_server.intake import UploadRequest
from sync_server.upload_session import UploadSession
from sync_server.uploads import Uploaded
from weightsync.digests import StreamDigester
from weightsync.layout import Layout
from weightsync.slices import Slice

Key = tuple[str, int]
"""Run and number."""


class Feeder(Protocol):
    """A stream that sends a shard."""

    replaced: bool
    """Whether another stream sends the same shard now."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the header of a shard says."""

    layout: Layout
    slices: list[Slice]


class Assembly:
    """One version in the making."""

    def __init__(self, request: UploadRequest, count: int) -> None:
        self.key: Key = (request.run_id, request.number)
        self.pusher = request.pusher
        self.count = count
        self.described: dict[int, Described] = {}
        self.feeders: dict[int, Feeder] = {}
        """Who sends a shard just now, or sent it."""
        self.done: dict[int, StreamDigester] = {}
        self.session: UploadSession | None = None
        self.layout: Layout | None = None
        self.opening: asyncio.Task[None] | None = None
        self.result: asyncio.Future[Uploaded] = asyncio.get_running_loop().create_future()
        self.ready = asyncio.Event()
        self.moved_at = asyncio.get_running_loop().time()

    def progress(self) -> None:
        """Something came."""
        self.moved_at = asyncio.get_running_loop().time()

    def late(self) -> str:
        """Who is missing: of the headers first, then of the bytes."""
        there = self.described if len(self.described) < self.count else self.done
        return missing(self.count, there)


def check_agreement(assembly: Assembly) -> None:
    """Raises DigestMismatch where two shards brought the same slice with other bytes."""
    seen: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = {}
    for index, found in assembly.described.items():
        digests = assembly.done[index].tensor_digests()
        for part in found.slices:
            digest = digests[part.name]
            known, first = seen.setdefault((part.name, part.start), (digest, index))
            if known != digest and 0 not in part.shape:
                raise DigestMismatch(
                    f"tensor {part.name!r} has other bytes in shard {first} than in shard {index}"
                )
