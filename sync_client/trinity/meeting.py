"""`ready_to_nccl_sync`: trainer and explorer meet before a transfer from GPU to GPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sync_client import errors
from sync_client.rendezvous import meet as join
from sync_client.trinity.session import Bound, Session
from sync_client.types import WorkerRole, WorkerState
from sync_client.worker import AsyncWorker

_log = logging.getLogger("weightsync")

_GROUP = "nccl-sync"
_WORKERS = 2  # upstream meets one explorer


@dataclass(frozen=True)
class Prepared:
    """One side, in REQUIRE_SYNC, and the step that the trainer brings; `worker` None: in vain."""

    worker: AsyncWorker | None
    step: int | None


async def prepare(session: Session, module: str, step: int | None) -> Prepared:
    """Checks that they can meet, and takes this side to REQUIRE_SYNC. Raises AssertionError."""
    assert module in ("trainer", "explorer"), f"Invalid module {module!r}: trainer or explorer"
    status = await session.status()
    counts = {} if status is None else dict(status.explorer_state_counts)
    lost = counts.pop(WorkerState.LOST, 0)
    # One that was lost a moment ago is an explorer still, to the trainer that finds it gone.
    count = sum(counts.values()) or min(lost, 1)
    assert count == 1, f"NCCL sync is only supported for one explorer, and there are {count}"
    if module == "trainer":
        assert step is not None, "the trainer says which step it brings"
        if not any(counts.get(s) for s in WorkerState if s is not WorkerState.STOPPED):
            _log.error("the explorer is not ready for a weight sync: it has stopped or was lost")
            await session.set_trainer_state(WorkerState.RUNNING)
            return Prepared(None, None)
        await session.set_trainer_state(WorkerState.REQUIRE_SYNC)
        return Prepared(session.trainer, step)
    explorer = session.explorer_in(WorkerState.RUNNING)
    if status is None or status.trainer_state in (None, WorkerState.STOPPED):
        _log.error("the trainer is not ready for a weight sync: it has not begun, or has stopped")
        return Prepared(None, None)
    await explorer.set_state(WorkerState.REQUIRE_SYNC, expected=WorkerState.RUNNING)
    return Prepared(explorer, None)


async def meet(session: Session, bound: Bound, prepared: Prepared) -> int | None:
    """The version to transfer, for both sides; None where they could not meet."""
    worker, step = prepared.worker, prepared.step
    if worker is None:
        return None
    session.waiting.add(worker)
    try:
        try:
            formed = await join(
                worker,
                _GROUP,
                version=step,
                worker_count=_WORKERS,
                timeout=session.settings.sync_timeout,
            )
        except (errors.PeerLost, errors.RendezvousTimeout) as error:
            _log.error("no weight sync: %s", error)
            return None
        if worker.role is WorkerRole.TRAINER and step is not None:
            client = await session.connect()
            await session.as_trainer(
                bound, lambda author: client.publish(step, rendezvous=_GROUP, author=author)
            )
        return formed.version
    finally:
        session.waiting.discard(worker)
        if worker.state is WorkerState.REQUIRE_SYNC:
            await worker.set_state(WorkerState.RUNNING)
