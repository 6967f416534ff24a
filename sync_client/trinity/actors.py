"""Process groups through Ray: the methods of upstream that call trainer and explorer actors.

A server can't call its clients, so the process that holds the handle does what upstream's
Synchronizer did, with Ray's own handles of the two actors.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from sync_client.trinity.session import Session
from sync_client.types import WorkerRole

_log = logging.getLogger("weightsync")


async def setup_explorer(
    session: Session, master_address: str, master_port: int, state_dict_meta: list[Any] | None
) -> None:
    """Lets the explorer join the group that the trainer leads."""
    explorer = await _actor(session, WorkerRole.EXPLORER)
    await explorer.setup_weight_sync_group.remote(master_address, master_port)
    if state_dict_meta is not None:
        await explorer.set_state_dict_meta.remote(state_dict_meta)


async def coordinate_setup(session: Session, timeout: int | None) -> None:
    """Lets both join a group at the trainer's address, then tells the explorer what will come."""
    settings = await session.group_settings()
    if settings.explorer_world_size is None:
        raise RuntimeError(
            "coordinate_weight_sync_setup needs synchronizer.explorer_world_size: make a handle of "
            "trainer or explorer with get_actor(config)"
        )
    trainer = await _actor(session, WorkerRole.TRAINER)
    explorer = await _actor(session, WorkerRole.EXPLORER)
    address, port, meta = await trainer.get_weight_sync_info.remote()
    group = (
        address,
        port,
        settings.explorer_world_size + 1,
        settings.group_name,
        timeout or int(settings.sync_timeout),
    )
    await asyncio.gather(
        trainer.setup_weight_sync_group.remote(*group),
        explorer.setup_weight_sync_group.remote(*group),
    )
    await explorer.set_state_dict_meta.remote(meta)


async def coordinate_teardown(session: Session) -> None:
    """Takes the group apart: first the explorer, so that no broadcast is under way."""
    for role in (WorkerRole.EXPLORER, WorkerRole.TRAINER):
        try:
            actor = await _actor(session, role)
            await actor.teardown_weight_sync_group.remote()
        except (_ray().exceptions.RayActorError, ValueError) as error:
            _log.warning("the %s is gone and need not leave its process group: %s", role, error)


def _ray() -> Any:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        raise RuntimeError(
            "process groups are set up through the Ray actors of trainer and explorer, and this "
            "process has no Ray"
        )
    return ray


async def _actor(session: Session, role: WorkerRole) -> Any:
    """The Ray actor of a side: workers are called as their actors are. Raises ValueError."""
    settings = session.settings
    name = settings.trainer if role is WorkerRole.TRAINER else settings.explorer
    if not name:
        status = await session.status()
        names = [w.name for w in (() if status is None else status.workers) if w.role is role]
        name = names[0] if names else role.value
    return _ray().get_actor(name, namespace=settings.namespace)
