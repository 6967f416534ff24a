"""The asynchronous client: everything that can be done without a lease."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client import convert, errors
from sync_client.connection import Connection, Patience, Target, new_request_id, translated
from sync_client.files import FileSink, FileSource
from sync_client.sources import check_transport, tensor_source
from sync_client.transfer import Progress, Received, Source, download, upload
from sync_client.types import (
    Pulled,
    RunEvent,
    RunStatus,
    TensorInfo,
    VersionInfo,
    WaitOutcome,
    WaitResult,
    WorkerRole,
)
from sync_client.worker import AsyncWorker
from weightsync import names
from weightsync.v1 import (
    runs_pb2,
    runs_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
    workers_pb2_grpc,
)

if TYPE_CHECKING:
    import torch

# One long poll; shorter than what load balancers cut, and the next one follows by itself.
_POLL_SECONDS = 60.0
# Beyond max_wait, for the answer to arrive.
_POLL_MARGIN = 10.0
_KNOWN_VERSIONS = 64
_PAGE = 1000


class AsyncSyncClient:
    """A client of one run. Make and use it on one event loop; `async with` closes it.

    server: HOST:PORT, default `WEIGHTSYNC_SERVER` or localhost:50051. run: default
    `WEIGHTSYNC_RUN` or "default". token, ca_cert, cert, key: where the server wants them.
    retry_for: for how many seconds a call is repeated while the server is out of reach before it
    raises ServerUnavailable; waits and watches go on for as long as they were asked to.
    """

    def __init__(
        self,
        server: str | None = None,
        run: str | None = None,
        *,
        token: str | None = None,
        ca_cert: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        retry_for: float = 10.0,
    ) -> None:
        target = Target.resolve(server, token, ca_cert, cert, key)
        try:
            self.run = names.check_run_id(run or target.run)
        except names.InvalidName as error:
            raise errors.InvalidName(str(error)) from error
        self.connection = Connection(target, retry_for)
        self._run_name = names.run_name(self.run)
        self._workers: list[AsyncWorker] = []
        # Digests of versions that came through this client: a number alone does not say which
        # bytes are held, once a trainer has gone back.
        self._digests: OrderedDict[int, str] = OrderedDict()

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

    # --- reading

    async def status(self) -> RunStatus:
        """The run: workers, states, newest version, waiters. Raises RunNotFound."""
        response = await self._runs("GetRun", runs_pb2.GetRunRequest(name=self._run_name))
        return convert.run(response.run)

    async def versions(self) -> list[VersionInfo]:
        """The versions that can be pulled, newest first. Raises RunNotFound."""
        found: list[VersionInfo] = []
        request = weights_pb2.ListWeightVersionsRequest(parent=self._run_name, page_size=_PAGE)
        while True:
            response = await self._weights("ListWeightVersions", request)
            found += [convert.version(item) for item in response.weight_versions]
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def tensors(self, version: int | None = None) -> list[TensorInfo]:
        """The tensors of a version (default: the newest), in the order of their bytes."""
        number = await self._number(version)
        found: list[TensorInfo] = []
        request = weights_pb2.ListTensorsRequest(name=self._name(number), page_size=_PAGE)
        while True:
            response = await self._weights("ListTensors", request)
            found += [
                TensorInfo(t.name, t.dtype, tuple(t.shape), t.size_bytes, t.digest)
                for t in response.tensors
            ]
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def wait_version(
        self, after: int | None = None, timeout: float | None = None
    ) -> int | None:
        """The newest version once it is not the one in hand; None at the timeout (seconds).

        `after` is what the caller has (None: nothing). Also None, and early, when the trainer
        stopped, was lost, or said that there is nothing new: `wait` tells which. The number may
        be lower than `after` where the trainer went back to an older checkpoint.
        """
        result = await self.wait(after, timeout)
        return result.version if result.reached else None

    async def wait(
        self, after: int | None = None, timeout: float | None = None, *, worker: str = ""
    ) -> WaitResult:
        """Like `wait_version`, with the reason. Goes on through restarts of the server."""
        if timeout is not None and not 0 <= timeout < float("inf"):
            raise errors.InvalidDuration(f"timeout of {timeout} s: 0 or more is allowed")
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float:
            return float("inf") if end is None else max(0.0, end - time.monotonic())

        while True:
            last = left() <= _POLL_SECONDS

            async def once() -> weights_pb2.WaitWeightVersionResponse:
                return await self._poll(after, min(left(), _POLL_SECONDS), worker)

            result = convert.wait_result(await self.connection.retrying(once, left()))
            if last or result.outcome is not WaitOutcome.TIMED_OUT:
                return result

    async def watch(self, after_revision: int | None = None) -> AsyncIterator[RunEvent]:
        """Every change of the run in order: a snapshot first, or all after `after_revision`.

        Resumes by itself after a cut, each revision once. Where the server no longer has what
        was missed, a new snapshot is given.
        """
        patience = Patience(self.connection.retry_for)
        while True:
            request = runs_pb2.WatchRunRequest(name=self._run_name, after_revision=after_revision)
            stub = runs_pb2_grpc.RunServiceStub(self.connection.channel)
            call = stub.WatchRun(request, metadata=self.connection.target.metadata())
            try:
                with translated(self.connection.target.server):
                    async for message in call:
                        after_revision = message.revision
                        patience = Patience(self.connection.retry_for)
                        yield convert.event(message)
                raise errors.ServerUnavailable("the server ended the watch")
            except errors.RevisionCompacted:
                after_revision = None
            except errors.ServerUnavailable:
                if not await patience.pause():
                    raise
            finally:
                call.cancel()

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
        return await self.send(tensor_source(state_dict), version, transport, delta, progress)

    async def push_file(
        self, path: str | Path, version: int, *, progress: Progress | None = None
    ) -> VersionInfo:
        """Pushes a safetensors file as it is, without a lease. Raises LocalFileError."""
        source = FileSource(Path(path))
        try:
            return await self.send(source, version, None, None, progress)
        finally:
            source.close()

    async def send(
        self,
        source: Source,
        version: int,
        transport: str | None,
        delta: bool | None,
        progress: Progress | None,
        worker: AsyncWorker | None = None,
    ) -> VersionInfo:
        """Pushes any source; what `push` and `push_file` are made of."""
        check_transport(transport, delta)
        header = weights_pb2.UploadWeightsHeader(
            name=self._name(version),
            worker="" if worker is None else worker.resource,
            generation=0 if worker is None else worker.generation,
            request_id=new_request_id(),
        )
        response = await upload(self.connection, header, source, progress)
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
        sink = StateDictSink(into, names)
        try:
            received = await self._fetch(version, names or (), sink, progress)
            state_dict, digest = sink.finish()
        except IntoMismatch as error:
            raise errors.IntoRefused(str(error)) from error
        except UnsupportedTensor as error:
            raise errors.TensorRefused(str(error)) from error
        return Pulled(
            version=received.version.version,
            state_dict=state_dict if into is None else into,
            transport="grpc",
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

        number = await self._number(version)
        infos = await self.tensors(number)
        async for item in iter_tensors(self.connection, self._name(number), names or (), infos):
            yield item

    # --- changing

    async def pin(
        self, version: int, owner: str = "client", ttl: float | None = None
    ) -> VersionInfo:
        """Keeps a version from being retired, for `ttl` seconds or until `unpin`."""
        request = weights_pb2.PinWeightVersionRequest(
            name=self._name(version),
            owner=owner,
            ttl=None if ttl is None else convert.duration(ttl),
            request_id=new_request_id(),
        )
        response = await self._weights("PinWeightVersion", request)
        return convert.version(response.weight_version)

    async def unpin(self, version: int, owner: str = "client") -> VersionInfo:
        """Takes `owner`'s pin back; a version that only the pin kept is retired."""
        request = weights_pb2.UnpinWeightVersionRequest(
            name=self._name(version), owner=owner, request_id=new_request_id()
        )
        response = await self._weights("UnpinWeightVersion", request)
        return convert.version(response.weight_version)

    async def delete(self, version: int) -> None:
        """Deletes a version. Raises VersionInUse for the newest, VersionPinned, VersionNotFound."""
        request = weights_pb2.DeleteWeightVersionRequest(
            name=self._name(version), request_id=new_request_id()
        )
        await self._weights("DeleteWeightVersion", request)

    async def rollback(self, version: int) -> VersionInfo:
        """Gives explorers an earlier version again."""
        request = weights_pb2.RollbackRunRequest(
            name=self._run_name, version=version, request_id=new_request_id()
        )
        response = await self._weights("RollbackRun", request)
        return convert.version(response.weight_version)

    # --- inside

    async def call_workers(self, method: str, request: object) -> Any:
        """A call of WorkerService, for `AsyncWorker`."""
        return await self.connection.call(workers_pb2_grpc.WorkerServiceStub, method, request)

    async def _runs(self, method: str, request: object) -> Any:
        return await self.connection.call(runs_pb2_grpc.RunServiceStub, method, request)

    async def _weights(self, method: str, request: object) -> Any:
        return await self.connection.call(weights_pb2_grpc.WeightServiceStub, method, request)

    async def _poll(
        self, after: int | None, max_wait: float, worker: str
    ) -> weights_pb2.WaitWeightVersionResponse:
        request = weights_pb2.WaitWeightVersionRequest(
            parent=self._run_name,
            after_version=after,
            max_wait=convert.duration(max_wait),
            worker=worker,
            after_digest="" if after is None else self._digests.get(after, ""),
        )
        stub = weights_pb2_grpc.WeightServiceStub(self.connection.channel)
        response = await stub.WaitWeightVersion(
            request, timeout=max_wait + _POLL_MARGIN, metadata=self.connection.target.metadata()
        )
        assert isinstance(response, weights_pb2.WaitWeightVersionResponse)
        return response

    async def _fetch(
        self, version: int | None, names: Sequence[str], sink: Any, progress: Progress | None
    ) -> Received:
        if version is not None:
            return await self._download(version, names, sink, progress)
        for _ in range(8):
            number = await self._number(None)
            try:
                return await self._download(number, names, sink, progress)
            except (errors.VersionRetired, errors.VersionExists):
                continue  # overtaken by a newer one between the question and the download
        return await self._download(await self._number(None), names, sink, progress)

    async def _download(
        self, number: int, names: Sequence[str], sink: Any, progress: Progress | None
    ) -> Received:
        received = await download(self.connection, self._name(number), names, sink, progress)
        self._remember(convert.version(received.version))
        return received

    async def _number(self, version: int | None) -> int:
        if version is not None:
            return version
        status = await self.status()
        if status.latest_version is None:
            raise errors.VersionNotFound(f"run {self.run!r} has no version yet")
        return status.latest_version

    def _name(self, number: int) -> str:
        try:
            return names.version_name(self.run, number)
        except names.InvalidName as error:
            raise errors.InvalidName(str(error)) from error

    def _remember(self, info: VersionInfo) -> None:
        self._digests[info.version] = info.digest
        self._digests.move_to_end(info.version)
        while len(self._digests) > _KNOWN_VERSIONS:
            self._digests.popitem(last=False)
