"""Model state dicts as upstream knows them, as versions of a run.

Upstream's state dict is a dict of tensors, None (the weights are in the checkpoint of that step),
or a string (a reference that means something to the explorers).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sync_client import errors
from sync_client.authors import Author
from sync_client.sources import tensor_source
from sync_client.trinity.session import Bound, Session
from sync_client.types import (
    VersionInfo,
    VersionSource,
    WaitOutcome,
    WaitResult,
    WorkerState,
)
from sync_client.worker import AsyncWorker

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("weightsync")

StateDict = Mapping[str, "torch.Tensor"]
# A lost trainer may come back, or another may take over; nothing else tells of that.
_LOST_PAUSE = 0.5
# A version can be retired between the question which is the newest and the pull of it.
_PULL_ATTEMPTS = 8


def checkpoint_path(session: Session, step: int) -> str:
    """Where upstream's trainers put the checkpoint of a step."""
    directory = session.settings.checkpoint_dir
    return str((directory or Path()) / f"global_step_{step}" / "actor")


async def set_state_dict(
    session: Session, bound: Bound, state_dict: StateDict | str | None, step: int
) -> None:
    """A new version in the name of the run's trainer."""
    client = await session.connect()
    if isinstance(state_dict, Mapping):
        source = tensor_source(state_dict)  # refused before anything is asked

        async def push(author: Author) -> None:
            await client.send(source, step, author=author)

        await session.as_trainer(bound, push)
        return
    if state_dict is not None and not isinstance(state_dict, str):
        raise errors.TensorRefused(
            f"a model state dict is a dict of tensors, a string or None, not {type(state_dict)}"
        )
    path = checkpoint_path(session, step) if state_dict is None else None

    async def publish(author: Author) -> None:
        await client.publish(
            step, checkpoint_path=path, external_reference=state_dict, author=author
        )

    await session.as_trainer(bound, publish)


async def latest(session: Session) -> VersionInfo | None:
    """The newest version."""
    status = await session.status()
    return None if status is None else status.latest


async def get_state_dict(
    session: Session, newest: VersionInfo | None
) -> tuple[dict[str, torch.Tensor] | str | None, int]:
    """The state dict of `newest`, or of the one that took its place meanwhile, and its number."""
    client = await session.connect()
    for _ in range(_PULL_ATTEMPTS):
        if newest is None:
            return None, 0
        if newest.source is VersionSource.EXTERNAL:
            return newest.reference, newest.version
        if newest.source is not VersionSource.WEIGHTSYNC:
            return None, newest.version
        try:
            pulled = await client.pull(newest.version)
            return dict(pulled.state_dict), pulled.version
        except errors.NotFound:
            newest = await latest(session)
    raise errors.VersionNotFound("every version was retired before it could be pulled")


async def iterate(
    session: Session, newest: VersionInfo | None
) -> AsyncIterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of the newest version, one in memory at a time."""
    if newest is None or newest.source in (VersionSource.CHECKPOINT, VersionSource.RENDEZVOUS):
        return
    if newest.source is VersionSource.EXTERNAL:
        raise ValueError("Model state dict is not in expected format (dict).")
    client = await session.connect()
    async for item in client.iter_tensors(newest.version):
        yield item


async def state_dict_meta(
    session: Session, newest: VersionInfo | None
) -> list[tuple[str, str, tuple[int, ...]]] | None:
    """(name, torch's dtype name, shape) of the newest version, without its bytes."""
    if newest is None or newest.source in (VersionSource.CHECKPOINT, VersionSource.RENDEZVOUS):
        return None
    if newest.source is VersionSource.EXTERNAL:
        raise AttributeError(f"the model state dict is the reference {newest.reference!r}")
    from sync_client.tensors import TORCH_DTYPES  # imports torch

    client = await session.connect()
    return [
        (tensor.name, str(TORCH_DTYPES[tensor.dtype]).rpartition(".")[2], tensor.shape)
        for tensor in await client.tensors(newest.version)
    ]


async def look(session: Session, current: int) -> WaitResult:
    """What a wait would find now. Raises AssertionError where the caller has what never was."""
    client = await session.connect()
    try:
        held, digest = _held(session, current)
        # Of no time itself, it must outlive a restart of the server all the same.
        found = await client.connection.retrying(lambda: client.wait(held, 0, digest=digest))
    except errors.RunNotFound:
        found = WaitResult(False, None, "", False, WaitOutcome.TRAINER_STOPPED, None)
    if current > (found.version or 0) and not found.rewound:
        # A server that lost its memory is no reason to end an explorer that lost nothing.
        assert session.digest_of(current) is not None, (
            f"The model version in Synchronizer ({found.version or 0}) should be no smaller than "
            f"that in Explorer ({current})!"
        )
    return found


def _held(session: Session, current: int) -> tuple[int | None, str]:
    """What the caller has, as a wait wants it: upstream's explorers begin with -1."""
    return (None, "") if current < 0 else (current, session.digest_of(current) or "")


def over(found: WaitResult, current: int) -> bool:
    """Whether whoever has `current` has nothing to wait for."""
    # Upstream begins with version 0, which stands for the weights that everybody has.
    if found.reached or (found.version is None and current < 0):
        return True
    return found.trainer_state in (None, WorkerState.STOPPED)


def outcome(session: Session, current: int, found: WaitResult) -> int:
    """The number that a wait gives."""
    if found.version is None:
        return max(current, 0)
    session.given(found.version, found.digest)
    return found.version


async def wait_new(session: Session, explorer: AsyncWorker, current: int, found: WaitResult) -> int:
    """The newest version once it is not `current`, or nothing new is to be expected.

    `found` is what `look` gave, before the explorer went to REQUIRE_SYNC: nothing that was said
    since is missed. It is RUNNING afterwards, however this ends. Raises TimeoutError after
    `sync_timeout`.
    """
    end = time.monotonic() + session.settings.sync_timeout
    lost = False
    session.waiting.add(explorer)
    try:
        while True:
            if over(found, current) or found.outcome is WaitOutcome.NOTHING_NEW:
                break
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"no version after {current} within {session.settings.sync_timeout:g} s"
                )
            if found.outcome is WaitOutcome.TRAINER_LOST:
                if not lost:
                    _log.warning("the trainer of run %s was lost: waiting for it", session.run)
                lost = True
                await asyncio.sleep(min(left, _LOST_PAUSE))
                left = max(0.0, end - time.monotonic())
            # Before the first version any will do, also number 0.
            held, digest = _held(session, current) if found.version is not None else (None, "")
            found = await explorer.wait(held, left, digest=digest, after_revision=found.revision)
    finally:
        session.waiting.discard(explorer)
        if explorer.state is WorkerState.REQUIRE_SYNC:
            await explorer.set_state(WorkerState.RUNNING)
    return outcome(session, current, found)
