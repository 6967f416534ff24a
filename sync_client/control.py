"""What a client can ask and tell about its run, without bytes and without a lease."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from sync_client import convert, errors, progress
from sync_client.authors import NOBODY, Author
from sync_client.connection import (
    Connection,
    Patience,
    Target,
    damaged_answer,
    new_request_id,
    translated,
)
from sync_client.health import Health, check_health
from sync_client.types import (
    RunEvent,
    RunStatus,
    TensorInfo,
    VersionInfo,
    VersionSource,
    WaitOutcome,
    WaitResult,
    WorkerState,
    WorkerStatus,
)
from weightsync import names
from weightsync.v1 import (
    progress_pb2,
    progress_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
)

# One long poll; shorter than what load balancers cut, and the next one follows by itself.
_POLL_SECONDS = 60.0
# Beyond max_wait, for the answer to arrive.
_POLL_MARGIN = 10.0
_KNOWN_VERSIONS = 64
_PAGE = 1000


class RunClient:
    """The unary calls and streams of small messages of one run; `AsyncSyncClient` adds the rest.

    server: HOST:PORT, default `WEIGHTSYNC_SERVER` or localhost:50051. run: default
    `WEIGHTSYNC_RUN` or "default". token, ca_cert, cert, key: where the server wants them.
    retry_for: for how many seconds a call is repeated while the server is out of reach before it
    raises ServerUnavailable; waits go on for as long as they were asked to.
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
        # Digests of versions that came through this client: a number alone does not say which
        # bytes are held, once a trainer has gone back.
        self._digests: OrderedDict[int, str] = OrderedDict()

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
        self,
        after: int | None = None,
        timeout: float | None = None,
        *,
        digest: str = "",
        after_revision: int | None = None,
        worker: str = "",
        retry_for: float | None = None,
    ) -> WaitResult:
        """Like `wait_version`, with the reason. Goes on through restarts of the server.

        digest: that of `after`, where this client did not pull it itself, so that other bytes
        under the same number are noticed. after_revision: from an earlier result; a notice of
        nothing new since then ends the wait.
        retry_for: raise ServerUnavailable once a poll that failed is older than this many seconds.
        """
        if timeout is not None and not 0 <= timeout < float("inf"):
            raise errors.InvalidDuration(f"timeout of {timeout} s: 0 or more is allowed")
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float:
            return float("inf") if end is None else max(0.0, end - time.monotonic())

        while True:
            last = left() <= _POLL_SECONDS

            async def once(
                since: int | None = after_revision,
            ) -> weights_pb2.WaitWeightVersionResponse:
                asked = weights_pb2.WaitWeightVersionRequest(
                    parent=self._run_name,
                    after_version=after,
                    max_wait=convert.duration(min(left(), _POLL_SECONDS)),
                    worker=worker,
                    after_digest="" if after is None else digest or self._digests.get(after, ""),
                    after_revision=since,
                )
                return await self._poll(asked)

            patience = left()
            if retry_for is not None:
                patience = min(patience, retry_for)
            elif not self.connection.reached:  # a wrong address must not wait for ever
                patience = min(patience, self.connection.retry_for)
            result = convert.wait_result(await self.connection.retrying(once, patience))
            after_revision = result.revision
            if last or result.outcome is not WaitOutcome.TIMED_OUT:
                return result

    async def watch(self, after_revision: int | None = None) -> AsyncGenerator[RunEvent, None]:
        """Every change of the run in order: a snapshot first, or all after `after_revision`.

        Resumes by itself after a cut, each revision once. Where the server no longer has what
        was missed, a new snapshot is given.
        """
        patience = Patience(self.connection.retry_for)
        while True:
            request = runs_pb2.WatchRunRequest(name=self._run_name, after_revision=after_revision)
            stub = self.connection.stub(runs_pb2_grpc.RunServiceStub)
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

    # --- changing

    async def publish(
        self,
        version: int,
        *,
        checkpoint_path: str | Path | None = None,
        external_reference: str | None = None,
        rendezvous: str | None = None,
        author: Author = NOBODY,
    ) -> VersionInfo:
        """See `AsyncWorker.publish`; without an author as `push` without a lease."""
        given = {
            VersionSource.CHECKPOINT: checkpoint_path,
            VersionSource.EXTERNAL: external_reference,
            VersionSource.RENDEZVOUS: rendezvous,
        }
        said = [(source, str(text)) for source, text in given.items() if text is not None]
        if len(said) != 1:
            raise errors.InvalidArgument(
                "a version is published with a checkpoint_path or an external_reference: give one"
            )
        request = weights_pb2.PublishWeightVersionRequest(
            name=self._name(version),
            worker=author.worker,
            generation=author.generation,
            request_id=new_request_id(),
        )
        setattr(request, convert.source_field(said[0][0]), said[0][1])
        response = await self._weights("PublishWeightVersion", request)
        info = convert.version(response.weight_version)
        self._remember(info)
        return info

    async def notify_nothing_new(self, author: Author = NOBODY) -> None:
        """See `AsyncWorker.notify_nothing_new`. Raises TrainerActive, RunNotFound."""
        request = weights_pb2.PublishWeightVersionRequest(
            name=self._name(0),
            worker=author.worker,
            generation=author.generation,
            nothing_new=True,
            request_id=new_request_id(),
        )
        await self._weights("PublishWeightVersion", request)

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
        """Gives explorers an earlier version again: those who wait wake with it, `rewound`.

        Nothing is retired by it. The next push takes the place of what is at or above its number.
        Raises VersionNotFound, VersionRetired. Retried by itself.
        """
        request = weights_pb2.RollbackRunRequest(
            name=self._run_name, version=version, request_id=new_request_id()
        )
        response = await self._weights("RollbackRun", request)
        return convert.version(response.weight_version)

    # --- health

    async def health(self, service: str = "") -> Health:
        """Whether the server, or one of its services, is SERVING."""
        return await check_health(self.connection, service)

    async def ready(self, worker: str, version: int | None = None) -> bool:
        """Whether a worker is alive and serves `version` or a later one (None: any at all).

        What a load balancer asks with grpc.health.v1, as service
        `runs/{run}/workers/{worker}@{version}`. Raises WorkerNotFound.
        """
        try:
            at = "" if version is None else names.check_version_number(version)
            service = f"{names.worker_name(self.run, worker)}@{at}"
        except names.InvalidName as error:
            raise errors.InvalidName(str(error)) from error
        status = await check_health(self.connection, service)
        if status is Health.SERVICE_UNKNOWN:
            raise errors.WorkerNotFound(f"no worker {worker!r} is registered")
        return status is Health.SERVING

    # --- progress and configuration

    async def save_progress(  # the fields of a record are keyword arguments
        self,
        name: str,
        *,
        kind: str | None = None,
        etag: str = "",
        worker: tuple[str, int] = ("", 0),
        **record: Any,
    ) -> str:
        """Saves a record whole and gives its new etag; with `etag`, only over that state ("0":
        only where there is none).

        kind: trainer (current_step, experience_index, sample_strategy_state), explorer
        (current_task_index, current_step, taskset_states, server_url) or stage
        (current_stage_index); default: the name. Raises EtagMismatch (read it again), and
        InvalidArgument for a field that the record lacks.
        """
        message = progress.encode(self.run, name, kind or name, record, etag)
        request = progress_pb2.SaveProgressRequest(
            progress=message,
            worker=worker[0],
            generation=worker[1],
            request_id=new_request_id(),
        )
        stub = progress_pb2_grpc.ProgressServiceStub
        response = await self.connection.call(stub, "SaveProgress", request)
        return str(response.progress.etag)

    async def load_progress(self, name: str) -> progress.Progress:
        """A saved record. Raises ProgressNotFound, RunNotFound."""
        try:
            request = progress_pb2.GetProgressRequest(name=names.progress_name(self.run, name))
        except names.InvalidName as error:
            raise errors.InvalidName(str(error)) from error
        stub = progress_pb2_grpc.ProgressServiceStub
        response = await self.connection.call(stub, "GetProgress", request)
        return progress.decode(response.progress)

    async def check_config(
        self, config: Mapping[str, Any], accept_changes: bool = False, *, worker: str = ""
    ) -> list[progress.ConfigDifference]:
        """Compares a configuration with the run's; the first one that comes is kept.

        Raises ConfigMismatch, whose text and metadata name each key with its old and new value
        (secrets masked); with `accept_changes` the differences are given and the new one is kept.
        """
        request = runs_pb2.CheckRunConfigRequest(
            name=self._run_name,
            worker=worker,
            config=progress.struct(config, "config"),
            accept_changes=accept_changes,
            request_id=new_request_id(),
        )
        response = await self._runs("CheckRunConfig", request)
        return progress.differences(response.differences)

    # --- inside

    async def set_worker_state(
        self, author: Author, state: WorkerState, expected: WorkerState | None = None
    ) -> WorkerStatus:
        """Moves a worker to another state, in its own name; see `AsyncWorker.set_state`."""
        request = workers_pb2.SetWorkerStateRequest(
            name=author.worker,
            generation=author.generation,
            state=convert.state_number(state),
            expected_state=None if expected is None else convert.state_number(expected),
            request_id=new_request_id(),
        )
        response = await self.call_workers("SetWorkerState", request)
        return convert.worker(response.worker)

    async def call_workers(self, method: str, request: object) -> Any:
        """A call of WorkerService, for `AsyncWorker`."""
        return await self.connection.call(workers_pb2_grpc.WorkerServiceStub, method, request)

    async def _runs(self, method: str, request: object) -> Any:
        return await self.connection.call(runs_pb2_grpc.RunServiceStub, method, request)

    async def _weights(self, method: str, request: object) -> Any:
        return await self.connection.call(weights_pb2_grpc.WeightServiceStub, method, request)

    async def _poll(
        self, request: weights_pb2.WaitWeightVersionRequest
    ) -> weights_pb2.WaitWeightVersionResponse:
        max_wait = convert.seconds(request.max_wait)
        stub = self.connection.stub(weights_pb2_grpc.WeightServiceStub)
        response = await stub.WaitWeightVersion(
            request, timeout=max_wait + _POLL_MARGIN, metadata=self.connection.target.metadata()
        )
        if not isinstance(response, weights_pb2.WaitWeightVersionResponse):
            raise damaged_answer()
        return response

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
