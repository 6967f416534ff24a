"""A version from a checkpoint on disk, once every rank has written its shard of it."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client import errors
from sync_client.aio import AsyncSyncClient
from sync_client.trinity.checkpoints import latest_step
from sync_client.trinity.session import Bound, Session
from sync_client.trinity.weights import checkpoint_path, set_state_dict

if TYPE_CHECKING:
    import torch

# The ranks of a trainer are processes of their own: they count in a progress record of the run.
_RECORD = "checkpoint-shards"
_KEPT_STEPS = 8
_ABSENT = "0"  # the etag of a record that was never saved


async def set_from_checkpoint(
    session: Session, bound: Bound, step: int | None, world_size: int | None
) -> int | None:
    """The number of the version that was made; None where shards are still missing."""
    directory = session.settings.checkpoint_dir
    if directory is None:
        raise errors.InvalidCheckpoint(
            "no checkpoint directory is known: make the handle with get_actor(config)"
        )
    if world_size is not None:
        assert step is not None, "with a world_size the step number is needed"
        assert world_size > 0, f"Invalid world size {world_size}"
        client = await session.connect()
        if await _arrive(client, step, secrets.token_hex(8)) < world_size:
            return None
    if step is None:
        try:
            step = await asyncio.to_thread(latest_step, directory)
        except (OSError, ValueError) as error:
            raise errors.InvalidCheckpoint(f"the latest step of {directory}: {error}") from error
        if step is None:
            raise errors.InvalidCheckpoint(f"{directory} has no checkpoint")
    state_dict = await asyncio.to_thread(load, Path(checkpoint_path(session, step)))
    await set_state_dict(session, bound, state_dict, step)
    return step


async def _arrive(client: AsyncSyncClient, step: int, call: str) -> int:
    """Counts one more shard of a step, and gives how many there are now. A retry counts once."""
    while True:
        arrived: dict[str, list[str]] = {}
        etag = _ABSENT
        try:
            found = await client.load_progress(_RECORD)
            arrived = dict(found.record.get("sample_strategy_state") or {})
            etag = found.etag
        except (errors.ProgressNotFound, errors.RunNotFound):
            pass
        calls = [*arrived.pop(str(step), ()), call]
        kept = dict(list(arrived.items())[-_KEPT_STEPS:])
        try:
            await client.save_progress(
                _RECORD,
                kind="trainer",
                etag=etag,
                current_step=step,
                sample_strategy_state={**kept, str(step): calls},
            )
        except errors.EtagMismatch:
            continue  # another rank came first
        return len(calls)


def load(directory: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint directory: safetensors by ourselves, in one file or several;
    what else trainers write, such as the shards of verl's FSDP, by Trinity-RFT's own reader.

    Raises InvalidCheckpoint.
    """
    for place in (directory, directory / "huggingface"):
        files = sorted(place.glob("*.safetensors"))
        if files:
            return _load_files(files)
    if importlib.util.find_spec("trinity") is None:
        raise errors.InvalidCheckpoint(
            f"{directory} has no safetensors file, and Trinity-RFT, which reads other checkpoints, "
            "is not installed here"
        )
    return _load_with_trinity(directory)


def _load_files(files: list[Path]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # imports torch

    state_dict: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state_dict.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise errors.InvalidCheckpoint(f"{file} can't be read: {error}") from error
    return state_dict


def _load_with_trinity(directory: Path) -> dict[str, torch.Tensor]:
    utils = importlib.import_module("trinity.common.models.utils")
    try:
        found: Any = utils.load_state_dict(str(directory))
    except Exception as error:
        raise errors.InvalidCheckpoint(f"{directory} can't be read: {error!r}") from error
    if not isinstance(found, dict):
        raise errors.InvalidCheckpoint(f"{directory} is in a format that can't be read: {found!r}")
    return found
