"""A trainer or explorer: what only a worker may do with weights and progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client import errors
from sync_client.connection import new_request_id
from sync_client.lease import LeasedWorker
from sync_client.sources import tensor_source
from sync_client.staleness import RunView, needed
from sync_client.transfer import Progress
from sync_client.types import Pulled, RunStatus, VersionInfo, WaitResult
from weightsync.digests import version_digest
from weightsync.v1 import workers_pb2 as pb

_log = logging.getLogger("weightsync")

if TYPE_CHECKING:
    import torch


class AsyncWorker(LeasedWorker):
    """A trainer or explorer with a live lease; made by `AsyncSyncClient.register`."""

    # --- weights

    async def push(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """Pushes a state dict as `version`: nobody sees any of it before all of it was verified.

        Tensors may be of any dtype that safetensors has, on any device, non-contiguous or tied;
        what can't be carried is refused before anything is sent (TensorRefused). Don't change
        them meanwhile: that is noticed (DigestMismatch). progress(done, total) in bytes.

        Raises VersionNotNewer, VersionExists (no retry), UploadInProgress, StorageFull,
        ServerUnavailable (retry), StaleGeneration (stop).
        """
        source = tensor_source(state_dict)
        return await self.leased(
            lambda: self.client.send(
                source,
                version,
                transport=transport,
                delta=delta,
                progress=progress,
                author=self.author,
            )
        )

    async def publish(
        self,
        version: int,
        *,
        checkpoint_path: str | Path | None = None,
        external_reference: str | None = None,
    ) -> VersionInfo:
        """Makes a version visible whose bytes are elsewhere: exactly one of the two is given.

        checkpoint_path: where explorers find it on their file systems; external_reference: what
        means something to them, such as the name of a remote sampler. Raises what `push` raises.
        """
        return await self.leased(
            lambda: self.client.publish(
                version,
                checkpoint_path=checkpoint_path,
                external_reference=external_reference,
                author=self.author,
            )
        )

    async def push_shard(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        shard_index: int,
        shard_count: int,
        *,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncSyncClient.push_shard`; as this trainer."""
        return await self.leased(
            lambda: self.client.push_shard(
                state_dict,
                version,
                shard_index,
                shard_count,
                author=self.author,
                progress=progress,
            )
        )

    async def notify_nothing_new(self) -> None:
        """Releases whoever waits for a version, without one (`WaitOutcome.NOTHING_NEW`)."""
        await self.leased(lambda: self.client.notify_nothing_new(author=self.author))

    async def wait_version(
        self, after: int | None = None, timeout: float | None = None
    ) -> int | None:
        """See `AsyncSyncClient.wait_version`; the server shows who waits."""
        result = await self.wait(after, timeout)
        return result.version if result.reached else None

    async def wait(
        self,
        after: int | None = None,
        timeout: float | None = None,
        *,
        digest: str = "",
        after_revision: int | None = None,
    ) -> WaitResult:
        """See `AsyncSyncClient.wait`."""
        return await self.client.wait(
            after, timeout, digest=digest, after_revision=after_revision, worker=self.resource
        )

    async def pull(
        self,
        version: int | None = None,
        into: Mapping[str, torch.Tensor] | None = None,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Pulled:
        """See `AsyncSyncClient.pull`."""
        return await self.client.pull(version, into, names, **options)

    async def iter_tensors(
        self, version: int | None = None, names: Sequence[str] | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """See `AsyncSyncClient.iter_tensors`."""
        async for item in self.client.iter_tensors(version, names):
            yield item

    async def status(self) -> RunStatus:
        """See `AsyncSyncClient.status`."""
        return await self.client.status()

    async def report_applied(
        self, version: int, state_dict: Mapping[str, torch.Tensor] | str
    ) -> bool:
        """Reports what is really loaded, by the digest of the tensors (or a digest itself).

        Gives whether that is the version, byte for byte. Where it is not, the server and the log
        say what is wrong: that nothing is loaded, that the bytes are those of another version, or
        which tensors are missing, transposed or different (`WorkerStatus.problem`).
        """
        if isinstance(state_dict, str):
            return (await self._report(version, state_dict)).verified
        from sync_client.tensors import StateDictSource  # imports torch

        source = StateDictSource(state_dict)
        loop = asyncio.get_running_loop()
        digests = await loop.run_in_executor(None, source.tensor_digests)
        entries = source.layout.tensors
        digest = version_digest((e.name, e.dtype, e.shape, digests[e.name]) for e in entries)
        found = await self._report(version, digest)
        if found.finding == pb.APPLIED_FINDING_DIFFERENT:
            tensors = [
                pb.AppliedTensor(name=e.name, dtype=e.dtype, shape=e.shape, digest=digests[e.name])
                for e in entries
            ]
            found = await self._report(version, digest, tensors)
        if found.problem:
            _log.warning("%s does not hold version %d: %s", self.name, version, found.problem)
        return found.verified

    async def _report(
        self, version: int, digest: str, tensors: Sequence[pb.AppliedTensor] = ()
    ) -> pb.AppliedVersion:
        request_id = new_request_id()

        async def once() -> pb.AppliedVersion:
            request = pb.ReportAppliedVersionRequest(
                name=self.resource,
                generation=self.generation,
                version=version,
                digest=digest,
                request_id=request_id,
                tensors=tensors,
            )
            response = await self.client.call_workers("ReportAppliedVersion", request)
            applied: pb.AppliedVersion = response.worker.applied_version
            return applied

        return await self.leased(once)

    # --- staleness

    async def wait_fresh(self, max_lag: int, timeout: float | None = None) -> bool:
        """Waits until what this explorer reported is at most `max_lag` training steps old.

        Meant for the part of an explorer that generates, while another part loads and reports.
        Gives False at the timeout (seconds). Raises InvalidArgument for less than 0 steps,
        RunNotFound, ServerUnavailable.
        """
        if not max_lag >= 0:
            raise errors.InvalidArgument(f"max_lag {max_lag}: 0 or more is allowed")
        view = await self._view(lambda view: view.lag(self.name) <= max_lag, timeout)
        return view.lag(self.name) <= max_lag

    async def wait_converged(
        self,
        version: int,
        fraction: float | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """Waits until explorers reported `version` or a later one, and gives who has not.

        fraction of the live explorers (default: all), or a count of them. The names of those
        that are behind are given also when enough are there, and at the timeout (seconds).
        """
        needed(0, fraction, count)  # refuse nonsense before waiting

        def enough(view: RunView) -> bool:
            explorers = view.explorers()
            there = len(explorers) - len(view.behind(version))
            return there >= needed(len(explorers), fraction, count)

        return (await self._view(enough, timeout)).behind(version)

    async def _view(self, over: Callable[[RunView], bool], timeout: float | None) -> RunView:
        """The run as a watch shows it once `over` holds, or as it is at the timeout."""
        view = RunView()

        async def follow() -> None:
            async with aclosing(self.client.watch()) as events:
                async for event in events:
                    view.apply(event)
                    if over(view):
                        return

        try:
            await asyncio.wait_for(follow(), timeout)
        except asyncio.TimeoutError:
            if not view.seen:  # too short even for the first answer
                view.take(await self.client.status())
        return view

    # --- progress and configuration

    async def save_progress(self, name: str | None = None, *, etag: str = "", **record: Any) -> str:
        """Saves this side's progress (see `RunClient.save_progress`) under its role, or `name`.

        Refused for a stale generation, so a replaced trainer can't take the new one back.
        """

        async def once() -> str:
            return await self.client.save_progress(
                name or self.role.value,
                kind=self.role.value,
                etag=etag,
                worker=(self.resource, self.generation),
                **record,
            )

        return await self.leased(once)
