"""What one process has with one run: a connection, and the workers that it announced.

Upstream counts explorers without knowing who they are, so one that dies is counted for ever. Here
each has a name and a lease that this process renews, and leaves the counts with its process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from sync_client import errors
from sync_client.aio import AsyncSyncClient
from sync_client.authors import NOBODY, Author
from sync_client.connection import Patience, Target
from sync_client.loop_thread import LoopThread
from sync_client.trinity.settings import Settings
from sync_client.types import RunStatus, WorkerRole, WorkerState, WorkerStatus
from sync_client.worker import AsyncWorker
from weightsync import names

R = TypeVar("R")

# A wrong address is to be noticed soon; a server that was there is waited for: a training run of
# weeks must outlive the restart of its machine.
_FIRST_PATIENCE = 30.0
_PATIENCE = 600.0
# How long a trainer may take to get its lease back, before what is said in its name fails.
_LEASE_PATIENCE = 30.0
_LEASE_SECONDS = 10.0
_REMEMBERED_VERSIONS = 64
# Upstream's launcher sets process groups up with a handle that has a namespace alone.
_SETTINGS_RECORD = "process-group-settings"


class Session:
    """One process, one server, one run. Its coroutines run on its own thread."""

    def __init__(self, server: str | None, run: str, settings: Settings) -> None:
        self._client = AsyncSyncClient(server, run, retry_for=_FIRST_PATIENCE)
        self._pid = os.getpid()
        self._met = asyncio.Event()
        self.settings = settings
        self.thread = LoopThread()
        self.trainer: AsyncWorker | None = None
        self.explorers: list[AsyncWorker] = []
        self.waiting: set[AsyncWorker] = set()
        """Those of them that are in a call, which takes them back to RUNNING at its end."""
        # Digests of the versions that waits gave, by number.
        self._given: OrderedDict[int, str] = OrderedDict()

    @property
    def run(self) -> str:
        """The run id."""
        return self._client.run

    @property
    def server(self) -> str:
        """The server's address."""
        return self._client.connection.target.server

    @property
    def usable(self) -> bool:
        """Whether it is of this process and open."""
        return self._pid == os.getpid() and not self.thread.closed

    def adopt(self, settings: Settings) -> None:
        """Takes over what a later configuration says and the earlier one did not."""
        if settings != Settings(namespace=settings.namespace):
            self.settings = replace(settings, namespace=settings.namespace or self.run)

    def close(self) -> None:
        """Lets the workers go and closes the connection. Safe to call twice."""
        if self.usable:
            self.thread.call(self._client.close())
            self.thread.stop()

    async def connect(self) -> AsyncSyncClient:
        """The client, once the server answered. Raises ServerUnavailable."""
        if not self._met.is_set():
            await self._client.health()
            self._client.connection.retry_for = _PATIENCE
            self._met.set()
        return self._client

    async def status(self) -> RunStatus | None:
        """The run; None before anything was said of it."""
        try:
            return await (await self.connect()).status()
        except errors.RunNotFound:
            return None

    # --- the trainer

    async def set_trainer_state(self, state: WorkerState) -> None:
        """The trainer's state. The first one that is not STOPPED registers this process' trainer,
        and fences whoever had its name before. Raises TrainerActive, StaleGeneration."""
        client = await self.connect()
        if self.trainer is None and state is WorkerState.STOPPED:
            holder = live_trainer(await self.status())
            if holder is not None:  # said by a launcher on the trainer's behalf
                resource = names.worker_name(self.run, holder.name)
                await client.set_worker_state(Author(resource, holder.generation), state)
            return
        if self.trainer is None:
            name = self.settings.trainer or None
            self.trainer = await client.register(WorkerRole.TRAINER, name, _LEASE_SECONDS)
            await self._share_settings()
        if self.trainer.state is not state:
            await move(self.trainer, state)

    async def as_trainer(self, bound: Bound, write: Callable[[Author], Awaitable[R]]) -> R:
        """Writes in the name of the run's trainer.

        That of this process, else the live one that another process holds: the ranks of a trainer
        push for it. `bound` is the one that was found first; when it was replaced, its ranks may
        write no more (StaleGeneration). Without any, in nobody's name.
        """
        if self.trainer is not None:
            trainer = self.trainer
            return await trainer.leased(lambda: write(trainer.author))
        await self.connect()
        patience = Patience(_LEASE_PATIENCE)
        while True:
            author = bound.check(live_trainer(await self.status()), self.run)
            try:
                return await write(author)
            except (errors.LeaseExpired, errors.WorkerNotFound, errors.TrainerActive) as error:
                # It is about to come back, or came just now.
                if isinstance(error, errors.TrainerActive) and author is not NOBODY:
                    raise
                if not await patience.pause():
                    raise

    # --- what a handle without a configuration needs

    async def _share_settings(self) -> None:
        """Leaves the process group's settings where `group_settings` finds them."""
        known = self.settings
        if known.explorer_world_size is None:
            return
        client = await self.connect()
        await client.save_progress(
            _SETTINGS_RECORD,
            kind="trainer",
            sample_strategy_state={
                "explorer_world_size": known.explorer_world_size,
                "group_name": known.group_name,
                "sync_timeout": known.sync_timeout,
            },
        )

    async def group_settings(self) -> Settings:
        """The settings, with those of the process group from a worker that has a configuration."""
        if self.settings.explorer_world_size is not None:
            return self.settings
        client = await self.connect()
        try:
            found = await client.load_progress(_SETTINGS_RECORD)
        except (errors.ProgressNotFound, errors.RunNotFound):
            return self.settings
        return replace(self.settings, **found.record["sample_strategy_state"])

    # --- explorers

    async def announce(self, state: WorkerState) -> AsyncWorker:
        """A new explorer of this process, in `state`."""
        client = await self.connect()
        name = self.settings.explorer or None
        if name is not None and self.explorers:
            name = f"{name}-{len(self.explorers) + 1}"
        explorer = await client.register(WorkerRole.EXPLORER, name, _LEASE_SECONDS)
        self.explorers.append(explorer)
        await self._share_settings()
        if state is not WorkerState.RUNNING:
            await explorer.set_state(state)
        return explorer

    def explorer_in(self, state: WorkerState) -> AsyncWorker:
        """An explorer of this process that is in `state`, rather one that is not in a call.

        Raises AssertionError, as upstream.
        """
        for explorer in sorted(self.explorers, key=lambda explorer: explorer in self.waiting):
            if explorer.state is state:
                return explorer
        assert self.explorers, f"Invalid explorer status {state}: this process announced none"
        had = ", ".join(str(explorer.state) for explorer in self.explorers)
        raise AssertionError(f"Invalid status count {state}: those of this process are {had}")

    # --- versions

    def given(self, version: int, digest: str) -> None:
        """Remembers what a wait gave: the caller will come back with the number alone."""
        self._given[version] = digest
        self._given.move_to_end(version)
        while len(self._given) > _REMEMBERED_VERSIONS:
            self._given.popitem(last=False)

    def digest_of(self, version: int) -> str | None:
        """The digest of a version that a wait gave; None: it gave no such one."""
        return self._given.get(version)


async def move(worker: AsyncWorker, state: WorkerState) -> None:
    """Takes a worker to a state from any other, as upstream allows it."""
    if worker.state is WorkerState.STOPPED and state is not WorkerState.RUNNING:
        await worker.set_state(WorkerState.RUNNING)
    await worker.set_state(state)


class Bound:
    """The trainer in whose name a handle writes, as it was found first."""

    def __init__(self) -> None:
        self._author: Author | None = None

    def check(self, holder: WorkerStatus | None, run: str) -> Author:
        """In whose name to write now. Raises StaleGeneration where the first one was replaced."""
        if holder is None:
            return NOBODY
        author = Author(names.worker_name(run, holder.name), holder.generation)
        if self._author is None:
            self._author = author
        if author != self._author:
            raise errors.StaleGeneration(
                f"this process writes for {_said(self._author)}, which was replaced by "
                f"{_said(author)}: stop it, or get_actor() anew in a process of the new trainer"
            )
        return author


def _said(author: Author) -> str:
    return f"{author.worker} at generation {author.generation}"


def live_trainer(status: RunStatus | None) -> WorkerStatus | None:
    """The trainer that holds the run."""
    gone = (WorkerState.STOPPED, WorkerState.LOST)
    for worker in () if status is None else status.workers:
        if worker.role is WorkerRole.TRAINER and worker.state not in gone:
            return worker
    return None


_sessions: dict[tuple[str, str], Session] = {}
_lock = threading.Lock()


def session_of(server: str | None, run: str, settings: Settings) -> Session:
    """The session of this process with that run: all handles share it, as they share the actor."""
    address = Target.resolve(server).server
    with _lock:
        found = _sessions.get((address, run))
        if found is None or not found.usable:
            found = _sessions[address, run] = Session(address, run, settings)
        else:
            found.adopt(settings)
        return found
