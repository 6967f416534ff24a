"""The handle: every method of Trinity-RFT's Synchronizer, called as `handle.method.remote(...)`.

From `trinity.manager.synchronizer.Synchronizer` of release 0.6.0, and what its earlier
documentation has besides. What is different on purpose is listed in docs/trinity.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client import errors
from sync_client.trinity import actors, meeting, shards, weights
from sync_client.trinity.checkpoints import watch_of
from sync_client.trinity.refs import remote_method, remote_stream
from sync_client.trinity.session import Bound, Session, move
from sync_client.trinity.statuses import running_status, worker_state
from sync_client.types import VersionSource, WorkerState

if TYPE_CHECKING:
    import torch

    from sync_client.loop_thread import LoopThread


class SynchronizerHandle:
    """A stand-in for the Ray actor handle of a Synchronizer; made by `get_actor`.

    Each method is called with `.remote(...)`, which gives a reference: await it on any event loop,
    or give it to `sync_client.trinity.get`. The calls of one handle take effect in the order in
    which they were made; one that waits lets the later ones pass. A status is Trinity's enum, or
    its name or value as text. Besides what is said of each method, all raise ServerUnavailable
    once the server was away for ten minutes.
    """

    def __init__(self, session: Session, rebuild: Callable[[], SynchronizerHandle]) -> None:
        self._session = session
        self._rebuild = rebuild
        self._bound = Bound()
        self._turn = asyncio.Lock()
        self._watch = watch_of(session)

    def __repr__(self) -> str:
        return f"<weightsync Synchronizer, run {self._session.run} at {self._session.server}>"

    def __reduce__(self) -> tuple[Callable[[], SynchronizerHandle], tuple[()]]:
        # Unpickled in another process it is that process' own handle, as an actor's would be.
        return self._rebuild, ()

    def close(self) -> None:
        """Ends what this process has with the run: an explorer deregisters, a trainer becomes
        STOPPED. All handles of the run in this process end with it. Upstream has no such method;
        without it the workers go with the process, when their leases run out."""
        self._session.close()

    def runner(self) -> LoopThread:
        """Where the calls run."""
        return self._session.thread

    # --- who is there

    @remote_method
    async def add_module(self, module_ref: object) -> None:
        """Accepted and not needed: who is alive is told by leases, and the server stays."""
        del module_ref

    @remote_method
    async def set_trainer_status(self, status: object) -> None:
        """Sets the trainer's status; the first one but STOPPED registers this process as trainer.

        Whoever held that name before may write no more. STOPPED releases those who wait for a
        version. Raises AssertionError for an unknown status, TrainerActive while a trainer of
        another name is live, StaleGeneration once this one was replaced (stop then).
        """
        state = worker_state(status)
        async with self._turn:
            if state is WorkerState.STOPPED:
                await self._watch.look()  # the last checkpoint goes before the news of the end
            await self._session.set_trainer_state(state)

    @remote_method
    async def get_trainer_status(self) -> Any:
        """The trainer's status; STOPPED before there was one, and where its lease ran out."""
        async with self._turn:
            return running_status(await self._trainer_state())

    @remote_method
    async def trainer_requires_sync(self) -> bool:
        """Whether the trainer is in REQUIRE_SYNC."""
        async with self._turn:
            return await self._trainer_state() is WorkerState.REQUIRE_SYNC

    @remote_method
    async def trainer_requires_weight_sync(self) -> bool | None:
        """Whether the trainer is in REQUIRE_SYNC; None once it has stopped for good.

        False also for one whose lease ran out: it may come back, and who is told None never asks
        again.
        """
        async with self._turn:
            state = await self._trainer_state()
        if state in (None, WorkerState.STOPPED):
            return None
        return state is WorkerState.REQUIRE_SYNC

    @remote_method
    async def set_explorer_status(self, status: object, old_status: object = None) -> None:
        """Announces an explorer of this process, or moves one from `old_status` to `status`.

        Raises AssertionError for an unknown status, for `old_status` equal to `status`, and where
        none of this process' explorers is in `old_status`; then nothing is changed.
        """
        state = worker_state(status)
        old = None if old_status is None else worker_state(old_status)
        async with self._turn:
            if old is None:
                await self._session.announce(state)
                return
            explorer = self._session.explorer_in(old)
            assert old is not state, f"Invalid status change from {old} to {state}"
            await move(explorer, state)

    @remote_method
    async def get_explorer_status_counts(self) -> dict[Any, int]:
        """How many explorers are in each status. Those whose lease ran out are in none."""
        async with self._turn:
            return await self._counts()

    @remote_method
    async def explorer_requires_sync(self) -> bool:
        """Whether any explorer is in REQUIRE_SYNC."""
        async with self._turn:
            counts = await self._counts()
        return counts.get(running_status(WorkerState.REQUIRE_SYNC), 0) > 0

    # --- versions

    async def _set_model_state_dict(
        self, model_state_dict: dict[str, torch.Tensor] | str | None, trainer_step: int
    ) -> None:
        """Makes a new version: a dict of tensors, None (it is in the checkpoint of that step), or
        a string that means something to the explorers.

        `.remote()` returns when the tensors were sent: they may be changed then, as with Ray.
        Raises VersionNotNewer for a step that is not above the newest of the same trainer, and
        VersionExists for other bytes under the same step (never retry), TensorRefused for what is
        no tensor, StaleGeneration once the trainer was replaced.
        """
        async with self._turn:
            await weights.set_state_dict(self._session, self._bound, model_state_dict, trainer_step)

    set_model_state_dict = remote_method(_set_model_state_dict, keeps_arguments=False)

    @remote_method
    async def set_model_state_dict_with_step_num(
        self, step_num: int | None = None, world_size: int | None = None
    ) -> int | None:
        """Makes a version from the checkpoint of a step (default: the latest one).

        With `world_size` each of that many ranks calls it once its shard is written, and the last
        one makes the version. Gives its number; None to the ranks before the last. Raises
        InvalidCheckpoint where it can't be read.
        """
        async with self._turn:
            return await shards.set_from_checkpoint(
                self._session, self._bound, step_num, world_size
            )

    @remote_method
    async def get_model_state_dict(self) -> tuple[dict[str, torch.Tensor] | str | None, int]:
        """The newest state dict (on the CPU, verified) and its version; (None, 0) before any."""
        async with self._turn:
            newest = await weights.latest(self._session)
        return await weights.get_state_dict(self._session, newest)

    @remote_stream
    async def get_model_state_dict_iterator(self) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """The newest state dict as (name, tensor), one at a time: iterate over `.remote()`, or
        `async for`, and give each item to `get`. Nothing comes where there is no dict.

        The tensors come in the order of the file. Raises ValueError where the state dict is a
        string.
        """
        async with self._turn:
            newest = await weights.latest(self._session)
        async for item in weights.iterate(self._session, newest):
            yield item

    @remote_method
    async def get_state_dict_meta(self) -> list[tuple[str, str, tuple[int, ...]]] | None:
        """(name, dtype such as "bfloat16", shape) of every tensor, in the order of the iterator;
        None where there is no dict. Raises AttributeError where it is a string.
        """
        async with self._turn:
            newest = await weights.latest(self._session)
        return await weights.state_dict_meta(self._session, newest)

    @remote_method
    async def wait_new_model_state_dict(self, current_version: int, no_wait: bool = False) -> int:
        """Waits until there is another version than `current_version`, and gives its number.

        An explorer of this process that is RUNNING is in REQUIRE_SYNC meanwhile. Gives the newest
        number, new or not, at once where the trainer has stopped or has not begun, when it says
        that nothing is new, and with `no_wait` (then no status changes). The number is lower
        where the trainer went back. Raises TimeoutError after `sync_timeout`, AssertionError
        where `current_version` never was or no explorer of this process is RUNNING.
        """
        async with self._turn:
            found = await weights.look(self._session, current_version)
            if no_wait:
                return found.version or 0
            explorer = self._session.explorer_in(WorkerState.RUNNING)
            if weights.over(found, current_version):
                # Upstream goes to REQUIRE_SYNC and back in one step, which nobody can see.
                return weights.outcome(self._session, current_version, found)
            await explorer.set_state(WorkerState.REQUIRE_SYNC, expected=WorkerState.RUNNING)
        return await weights.wait_new(self._session, explorer, current_version, found)

    @remote_method
    async def notify_no_new_model_state_dict(self) -> None:
        """Releases whoever waits for a version, without one."""
        async with self._turn:
            client = await self._session.connect()
            try:
                await self._session.as_trainer(
                    self._bound, lambda author: client.notify_nothing_new(author=author)
                )
            except errors.RunNotFound:
                pass  # then nobody waits

    @remote_method
    async def get_latest_model_version(self) -> int:
        """The newest version; 0 before there is one."""
        async with self._turn:
            newest = await weights.latest(self._session)
        return 0 if newest is None else newest.version

    @remote_method
    async def get_latest_model_path(self, use_huggingface: bool = False) -> str | None:
        """The directory of the newest version's checkpoint; None before there is a version.

        For a version that came as tensors it is where upstream's trainer would put it, if this
        handle knows the configuration.
        """
        async with self._turn:
            newest = await weights.latest(self._session)
        if newest is None or newest.source is VersionSource.RENDEZVOUS:
            return None
        if newest.source is VersionSource.CHECKPOINT:
            path = newest.reference
        elif self._session.settings.checkpoint_dir is not None:
            path = weights.checkpoint_path(self._session, newest.version)
        else:
            return None
        return str(Path(path) / "huggingface") if use_huggingface else path

    # --- process groups

    @remote_method
    async def setup_weight_sync_group(
        self, master_address: str, master_port: int, state_dict_meta: list[Any] | None = None
    ) -> None:
        """Tells the explorer to join a process group, through its Ray actor as upstream does.

        Raises RuntimeError without Ray.
        """
        await actors.setup_explorer(self._session, master_address, master_port, state_dict_meta)

    @remote_method
    async def coordinate_weight_sync_setup(self, timeout: int | None = None) -> None:
        """Brings trainer and explorer into one process group, through their Ray actors.

        timeout: seconds, default `sync_timeout`. Raises RuntimeError without Ray.
        """
        await actors.coordinate_setup(self._session, timeout)

    @remote_method
    async def coordinate_weight_sync_teardown(self) -> None:
        """Takes the process group apart, the explorer first. A side that is gone is no error."""
        await actors.coordinate_teardown(self._session)

    @remote_method
    async def ready_to_nccl_sync(self, module: str, trainer_step: int | None = None) -> int | None:
        """Meets the other side for a transfer: module is "trainer" or "explorer".

        Gives the version to transfer, the trainer's step, to both; None where the other side has
        stopped, was lost, or did not come within `sync_timeout`. Both are RUNNING afterwards, and
        the version is the newest only once both had come. Raises AssertionError unless exactly
        one explorer is there.
        """
        async with self._turn:
            prepared = await meeting.prepare(self._session, module, trainer_step)
        return await meeting.meet(self._session, self._bound, prepared)

    # --- inside

    async def _trainer_state(self) -> WorkerState | None:
        status = await self._session.status()
        return None if status is None else status.trainer_state

    async def _counts(self) -> dict[Any, int]:
        status = await self._session.status()
        counts: dict[Any, int] = {}
        for state, count in () if status is None else status.explorer_state_counts.items():
            if state is not WorkerState.LOST and count:
                found = running_status(state)
                counts[found] = counts.get(found, 0) + count
        return counts
