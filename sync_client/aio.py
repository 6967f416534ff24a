"""The asynchronous client: a run's bytes and workers, on top of `control`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sync_client import convert, errors
from sync_client.authors import NOBODY, Author
from sync_client.connection import new_request_id
from sync_client.control import RunClient
from sync_client.files import FileSink, FileSource
from sync_client.mapped import as_pulled
from sync_client.shared_memory import Mapped, attach, copy_into
from sync_client.sources import check_transport, tensor_source
from sync_client.transfer import Progress, Received, Source, announce
from sync_client.transports import pull_bytes, push_bytes
from sync_client.types import Pulled, VersionInfo, WorkerRole
from sync_client.worker import AsyncWorker
from weightsync.v1 import weights_pb2

if TYPE_CHECKING:
    import torch


R = TypeVar("R")


class AsyncSyncClient(RunClient):
    """A client of one run. Make and use it on one event loop; `async with` closes it.

    The arguments are those of `RunClient`.
    """

    def __init__(self, server: str | None = None, run: str | None = None, **options: Any) -> None:
        super().__init__(server, run, **options)
        self._workers: list[AsyncWorker] = []

    async def __aenter__(self) -> AsyncSyncClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets the workers go (a trainer as STOPPED) and closes the channel. Safe to call twice."""
        workers, self._workers = self._workers, []
        for worker in workers:
            await worker.close()
        await self.connection.close()

    # --- workers

    async def register(
        self, role: WorkerRole | str, name: str | None = None, lease: float = 10.0
    ) -> AsyncWorker:
        """Registers a worker and keeps its lease of `lease` seconds alive in the background.

        name: default "trainer", or "explorer-" with host, process and a random part. A name that
        is in use is taken over: its former holder may write no more (StaleGeneration). Raises
        TrainerActive while a trainer of another name is live, InvalidName, InvalidDuration.
        """
        try:
            kind = WorkerRole(role)
        except ValueError:
            raise errors.InvalidArgument(f"role {role!r}: trainer or explorer is allowed") from None
        worker = AsyncWorker(self, kind, name, lease)
        await worker.start()
        self._workers.append(worker)
        return worker

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
        """Pushes a state dict as `version` without a lease: refused (TrainerActive) while a live
        trainer holds the run. See `AsyncWorker.push`.
        """
        source = tensor_source(state_dict)
        return await self.send(source, version, transport=transport, delta=delta, progress=progress)

    async def push_file(
        self, path: str | Path, version: int, *, progress: Progress | None = None
    ) -> VersionInfo:
        """Pushes a safetensors file as it is, without a lease. Raises LocalFileError."""
        source = FileSource(Path(path))
        try:
            return await self.send(source, version, progress=progress)
        finally:
            source.close()

    async def push_shard(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        shard_index: int,
        shard_count: int,
        *,
        author: Author = NOBODY,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """Pushes this rank's part of a version, and waits until all `shard_count` parts are there.

        Every rank calls it at the same time with its own `shard_index`, from 0. Plain tensors are
        sent whole; of DTensors (FSDP2, tensor parallelism) each rank sends the slice it holds, and
        the server puts them together. Nothing is visible before the last part.

        author: the trainer's name and generation (`trainer.author`, sent to all ranks), where a
        trainer holds the run. Raises ShardMissing where nothing came of a rank for a minute (its
        number is said; retry on all ranks), InvalidHeader where the parts do not make whole
        tensors, and what `push` raises.
        """
        from sync_client.shards import shard_source  # imports torch

        source = shard_source(state_dict, shard_count)
        if shard_count == 1:
            return await self.send(source, version, progress=progress, author=author)
        shard = shard_index, shard_count
        return await self.send(
            source, version, transport="grpc", progress=progress, author=author, shard=shard
        )

    async def send(
        self,
        source: Source,
        version: int,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
        author: Author = NOBODY,
        shard: tuple[int, int] = (0, 0),
    ) -> VersionInfo:
        """Pushes any source; what `push` and `push_file` are made of."""
        check_transport(transport, delta)
        header = weights_pb2.UploadWeightsHeader(
            name=self._name(version),
            worker=author.worker,
            generation=author.generation,
            request_id=new_request_id(),
            shard_index=shard[0],
            shard_count=shard[1],
        )
        await announce(header, source)
        response = await push_bytes(self.connection, header, source, transport, progress)
        info = convert.version(response.weight_version)
        self._remember(info)
        return info

    async def pull(
        self,
        version: int | None = None,
        into: Mapping[str, torch.Tensor] | None = None,
        names: Sequence[str] | None = None,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """Gets a version (default: the newest) as tensors, verified.

        into: tensors to fill in place, such as `model.state_dict()`, without a second copy of the
        model; its names, shapes and dtypes must be the version's (IntoRefused, nothing written).
        They are written while the bytes arrive: after an error with `into` pull again before they
        are used. names: only these tensors. Raises VersionNotFound, VersionRetired,
        TensorNotFound, DigestMismatch, ServerUnavailable.
        """
        # Torch is imported only where it is needed.
        from sync_client.tensors import IntoMismatch, StateDictSink, UnsupportedTensor

        check_transport(transport, delta)
        started = time.monotonic()
        if into is None:
            mapped = await self._map(version, transport)
            if mapped is not None:
                return as_pulled(mapped, names or (), started)
        sink = StateDictSink(into, names)
        try:
            received = await self._fetch(version, names or (), sink, progress, transport)
            state_dict, digest = sink.finish()
        except IntoMismatch as error:
            raise errors.IntoRefused(str(error)) from error
        except UnsupportedTensor as error:
            raise errors.TensorRefused(str(error)) from error
        return Pulled(
            version=received.version.version,
            state_dict=state_dict if into is None else into,
            transport=received.transport,
            wire_bytes=received.wire_bytes,
            seconds=time.monotonic() - started,
            digest=digest,
        )

    async def pull_file(
        self,
        path: str | Path,
        version: int | None = None,
        names: Sequence[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """Gets a version as a safetensors file, which appears whole and verified or not at all."""
        sink = FileSink(Path(path))
        try:
            received = await self._fetch(version, names or (), sink, progress)
            await asyncio.get_running_loop().run_in_executor(None, sink.keep)
            return convert.version(received.version)
        finally:
            sink.discard()

    async def iter_tensors(
        self, version: int | None = None, names: Sequence[str] | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """(name, tensor) one at a time, each verified before it is given; one tensor of memory."""
        from sync_client.tensor_iter import iter_tensors  # imports torch

        mapped = await self._map(version, None)
        if mapped is not None:
            for item in as_pulled(mapped, names or (), 0.0).state_dict.items():
                yield item
            return
        number = await self._number(version)
        infos = await self.tensors(number)
        async for item in iter_tensors(self.connection, self._name(number), names or (), infos):
            yield item

    # --- inside

    async def _map(self, version: int | None, transport: str | None) -> Mapped | None:
        """A version, mapped; None where it has to be copied. Raises TransportUnavailable where
        nothing but shared memory would do."""
        if transport not in (None, "shared-memory"):
            return None

        async def once(number: int) -> Mapped | None:
            return await attach(self.connection, self._name(number))

        mapped = await self._newest(version, once)
        if mapped is None and transport is not None:
            raise errors.TransportUnavailable(
                f"shared-memory: the files of the server at {self.connection.target.server} "
                "can't be mapped here"
            )
        if mapped is not None:
            self._remember(convert.version(mapped.version))
        return mapped

    async def _fetch(
        self,
        version: int | None,
        names: Sequence[str],
        sink: Any,
        progress: Progress | None,
        transport: str | None = None,
    ) -> Received:
        mapped = await self._map(version, transport)
        if mapped is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, copy_into, mapped, names, sink, progress)

        async def once(number: int) -> Received:
            name = self._name(number)
            return await pull_bytes(self.connection, name, names, sink, transport, progress)

        received = await self._newest(version, once)
        self._remember(convert.version(received.version))
        return received

    async def _newest(self, version: int | None, once: Callable[[int], Awaitable[R]]) -> R:
        """`once` of a version; of the newest, where none is said, however often that changes."""
        if version is not None:
            return await once(version)
        for _ in range(8):
            number = await self._number(None)
            try:
                return await once(number)
            except (errors.VersionRetired, errors.VersionExists):
                continue  # overtaken by a newer one between the question and the download
        return await once(await self._number(None))
