"""The checkpoint method: versions that a trainer announces by a file in its checkpoint directory.

Upstream's Synchronizer looks into `checkpoint_job_dir` itself. Here the handles look, so that the
server needs no file system in common with them: the trainer's, or, while no trainer is live, any.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import weakref
from pathlib import Path

from sync_client import errors
from sync_client.trinity.session import Bound, Session, live_trainer
from sync_client.trinity.weights import set_state_dict

_log = logging.getLogger("weightsync")

_LATEST_STATE_DICT = "latest_state_dict_iteration.txt"
_LATEST_CHECKPOINT = "latest_checkpointed_iteration.txt"
_REMOTE_SAMPLER = "remote_sampler_path.txt"
# Written by upstream beside a checkpoint that is more than the weights for explorers.
_FULL = ".full_checkpoint"
_LOOK_SECONDS = 0.25
# Upstream keeps one, and removes the one that an explorer may be loading. Like the server's default
# for versions: the newest, and the one before it.
_KEPT = 2


class CheckpointWatch:
    """Publishes the state dicts that appear in the checkpoint directory of a configuration."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bound = Bound()
        self.running = False
        self._done: int | None = None  # the step that was published, or refused for good, last
        self._passed: int | None = None  # the step that only a trainer could announce
        self._published: list[int] = []
        self._problem = ""
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Looks several times a second until the session ends."""
        while True:
            try:
                await self.look()
            except errors.SyncError as error:
                self._say(f"the checkpoint is not announced: {error}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Publishes what is there and new. Does nothing where versions come in another way."""
        directory = self._session.settings.checkpoint_dir
        if directory is None or not self._session.settings.watches_checkpoints:
            return
        async with self._looking:
            step = await asyncio.to_thread(self._read, directory)
            if step is not None and step != self._done:
                await self._publish(directory, step)

    def _read(self, directory: Path) -> int | None:
        """The step that is complete, None where there is none or it can't be read yet."""
        try:
            return latest_step(directory, _LATEST_STATE_DICT)
        except (OSError, ValueError) as error:
            self._say(f"{directory / _LATEST_STATE_DICT} can't be read: {error}")
            return None

    async def _publish(self, directory: Path, step: int) -> None:
        session = self._session
        if session.trainer is None:
            if step == self._passed:
                return
            status = await session.status()
            newest = None if status is None else status.latest_version
            if newest is not None and step <= newest:  # only a trainer may go back
                self._passed = step
                return
            if live_trainer(status) is not None:  # its own handle looks, too
                return
        content: str | None = None
        if session.settings.remote_samplers:
            path = directory / f"global_step_{step}" / _REMOTE_SAMPLER
            try:
                content = (await asyncio.to_thread(path.read_text, "utf-8")).strip()
            except OSError as error:
                self._say(f"{path} can't be read: {error}")
                return
        try:
            await set_state_dict(session, self._bound, content, step)
        except (errors.VersionNotNewer, errors.VersionExists, errors.StaleGeneration) as error:
            self._done = step  # asking again would change nothing
            self._say(f"the checkpoint of step {step} is not announced: {error}")
            return
        self._done = step
        self._problem = ""
        if step in self._published:
            self._published.remove(step)
        self._published.append(step)
        while len(self._published) > _KEPT:
            await asyncio.to_thread(_remove, directory / f"global_step_{self._published.pop(0)}")

    def _say(self, problem: str) -> None:
        """One line a change."""
        if problem != self._problem:
            self._problem = problem
            _log.warning(problem)


_watches: weakref.WeakKeyDictionary[Session, CheckpointWatch] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def watch_of(session: Session) -> CheckpointWatch:
    """The one watch of a session; it runs once a configuration asks for it."""
    with _lock:
        watch = _watches.get(session)
        if watch is None:
            watch = _watches[session] = CheckpointWatch(session)
        if session.settings.watches_checkpoints and not watch.running:
            watch.running = True
            session.thread.submit(watch.run())
        return watch


def latest_step(directory: Path, name: str = _LATEST_CHECKPOINT) -> int | None:
    """The step in one of upstream's files; None where there is none. Raises OSError, ValueError."""
    try:
        text = (directory / name).read_text("utf-8")
    except FileNotFoundError:
        return None
    step = int(text.strip())
    if step < 0:
        raise ValueError(f"step {step}: 0 or more is allowed")
    return step


def _remove(directory: Path) -> None:
    """Removes a checkpoint that was written for explorers alone, as upstream does."""
    if directory.is_symlink() or not directory.is_dir() or (directory / _FULL).exists():
        return
    _log.info("removing %s: two newer ones are there", directory)
    shutil.rmtree(directory, ignore_errors=True)
