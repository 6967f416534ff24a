"""Versions without bytes: the weights are in a checkpoint, somewhere else, or went over a group.

The server keeps the words and never looks behind them: no path from a client is opened here.
"""

from __future__ import annotations

import secrets

import structlog

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import InvalidArgument
from sync_server.domain.versions import NO_FILE, Pusher, Reference, Source, Version, check_number
from weightsync.digests import text_digest

_log = structlog.get_logger(__name__)
_MAX_CHARACTERS = 4096


class References:
    """Publishes versions without bytes."""

    def __init__(self, coordinator: Coordinator, *, keep: int) -> None:
        self._coordinator = coordinator
        self._keep = keep

    async def publish(
        self, run_id: str, number: int, pusher: Pusher, reference: Reference, request_id: str = ""
    ) -> Version:
        """Makes the version visible. Raises InvalidArgument and what `commands.commit` raises."""
        check_number(number)
        text = reference.text
        if len(text) > _MAX_CHARACTERS or not text.isprintable():
            raise InvalidArgument(
                f"{reference.source.value} {text[:64]!r}: "
                f"up to {_MAX_CHARACTERS} printable characters are allowed",
                field="source",
            )
        version = Version(
            number=number,
            digest=_digest(reference, pusher),
            size_bytes=0,
            tensor_count=0,
            blob_id=f"{NO_FILE}{secrets.token_hex(8)}",
            tensor_digests=b"",
            pusher=pusher,
            committed_at=0.0,
            revision=0,
            reference=reference,
        )
        published, existed = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.commit(run, now, version=version, keep=self._keep),
            create=not pusher.worker_id,
            request=("PublishWeightVersion", request_id),
        )
        if not existed:
            _log.info(
                "version published", run=run_id, version=number, source=reference.source.value
            )
        return published


def _digest(reference: Reference, pusher: Pusher) -> str:
    """Tells two publications of a number apart.

    A trainer that went back writes other weights to the same path, or sends them through the same
    group: its generation is part of what is told apart. What is external says itself what it is.
    """
    words = [reference.source.value, reference.text]
    if reference.source is not Source.EXTERNAL:
        words += [pusher.worker_id, str(pusher.generation)]
    return text_digest("\n".join(words))
