"""A registered process: its lease and its state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from sync_client import convert, errors
from sync_client.authors import Author
from sync_client.connection import new_request_id
from sync_client.heartbeat import Heartbeat
from sync_client.types import WorkerRole, WorkerState, WorkerStatus
from weightsync import names
from weightsync.v1 import workers_pb2 as pb

if TYPE_CHECKING:
    from sync_client.aio import AsyncSyncClient

R = TypeVar("R")
W = TypeVar("W", bound="LeasedWorker")


class LeasedWorker:
    """What every worker has; `AsyncWorker` adds what it does with weights.

    Every write carries the generation. A lease that ran out, or a server that forgot it, is
    mended by registering again under the same generation; a name that somebody else took over is
    not: then every write raises StaleGeneration, for ever.
    """

    def __init__(
        self, client: AsyncSyncClient, role: WorkerRole, name: str | None, lease: float
    ) -> None:
        self.client = client
        self.role = role
        self.name = _default_name(role) if name is None else name
        self.lease = lease
        self.generation = 0
        self.state = WorkerState.RUNNING
        self._heartbeat = Heartbeat(self.name, lease, self._renew)
        # One at a time: a heartbeat that overtook a state change would take it back.
        self._lease_lock = asyncio.Lock()
        self._closed = False

    @property
    def resource(self) -> str:
        """The resource name, `runs/{run}/workers/{worker}`. Raises InvalidName."""
        try:
            return names.worker_name(self.client.run, self.name)
        except names.InvalidName as error:
            raise errors.InvalidName(str(error)) from error

    @property
    def author(self) -> Author:
        """In whose name this worker writes, as of now."""
        return Author(self.resource, self.generation)

    async def start(self) -> None:
        """Registers and begins to beat; `AsyncSyncClient.register` does this."""
        _ = self.resource  # refuse a bad name before anything is sent
        await self._register(None)
        self._heartbeat.start()

    async def close(self) -> None:
        """Leaves: an explorer deregisters, a trainer becomes STOPPED, which releases the waiting.

        Never raises for a server that is away: then the lease runs out by itself.
        """
        if self._closed:
            return
        self._closed = True
        await self._heartbeat.stop()
        with contextlib.suppress(errors.SyncError):
            if self.role is WorkerRole.TRAINER:
                await self._set_state(WorkerState.STOPPED, None)
            else:
                request = pb.DeregisterWorkerRequest(
                    name=self.resource, generation=self.generation, request_id=new_request_id()
                )
                await self.client.call_workers("DeregisterWorker", request)

    async def __aenter__(self: W) -> W:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # --- state

    async def set_state(
        self, state: WorkerState | str, expected: WorkerState | str | None = None
    ) -> WorkerStatus:
        """Moves to another state; with `expected`, only from that one (StateMismatch otherwise).

        Raises IllegalTransition, InvalidState for LOST.
        """
        try:
            wanted = WorkerState(state)
            before = None if expected is None else WorkerState(expected)
        except ValueError as error:
            allowed = ", ".join(item.value for item in WorkerState)
            raise errors.InvalidState(f"{error}: {allowed} are allowed") from None

        async def once() -> WorkerStatus:
            async with self._lease_lock:
                return await self._set_state(wanted, before)

        return await self.leased(once)

    # --- the lease

    async def _set_state(self, state: WorkerState, expected: WorkerState | None) -> WorkerStatus:
        try:
            found = await self.client.set_worker_state(self.author, state, expected)
        except errors.StateMismatch as error:
            # Nobody else writes for this generation. So where it left the state that it had for the
            # one that is wanted, an attempt of ours did that whose answer was lost, and the server
            # that would remember it was started anew since.
            if expected is not self.state or error.metadata.get("state") != state.value:
                raise
            found = await self.client.set_worker_state(self.author, state)
        self.state = state
        return found

    async def leased(self, write: Callable[[], Awaitable[R]]) -> R:
        """A write; repeated once after the lease was mended."""
        if self._closed:
            raise errors.ClientClosed(f"worker {self.name} was closed")
        if self._heartbeat.fenced is not None:
            raise errors.StaleGeneration(str(self._heartbeat.fenced))
        try:
            return await write()
        except (errors.LeaseExpired, errors.NotFound) as error:
            if isinstance(error, errors.NotFound) and not isinstance(
                error, errors.WorkerNotFound | errors.RunNotFound
            ):
                raise
            async with self._lease_lock:
                await self._mend()
            return await write()

    async def _renew(self) -> None:
        async with self._lease_lock:
            request = pb.RenewLeaseRequest(name=self.resource, generation=self.generation)
            try:
                response = await self.client.call_workers("RenewLease", request)
            except (errors.LeaseExpired, errors.WorkerNotFound, errors.RunNotFound):
                await self._mend()
                return
            # A crash may have taken the last state changes with it.
            if convert.worker(response.worker).state is not self.state:
                await self._set_state(self.state, None)

    async def _mend(self) -> None:
        """Gets the lease back under the same generation, and the state with it. Needs the lock."""
        state = self.state
        await self._register(self.generation)
        if state is not WorkerState.RUNNING:
            await self._set_state(state, None)

    async def _register(self, resume_generation: int | None) -> None:
        request = pb.RegisterWorkerRequest(
            parent=names.run_name(self.client.run),
            worker_id=self.name,
            role=convert.role_number(self.role),
            lease_duration=convert.duration(self.lease),
            request_id=new_request_id(),
            resume_generation=resume_generation,
        )
        response = await self.client.call_workers("RegisterWorker", request)
        self.generation = response.worker.generation
        self.state = WorkerState.RUNNING


def _default_name(role: WorkerRole) -> str:
    # A trainer that is restarted takes its own name over at once, instead of waiting for the
    # lease of its predecessor; of explorers there are many.
    if role is WorkerRole.TRAINER:
        return "trainer"
    return f"explorer-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
