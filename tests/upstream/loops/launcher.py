"""Starts the processes of a run and drives them as `trinity run` does (cli/launcher.py)."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple

from tests.upstream.loops import actor
from tests.upstream.loops.settings import Settings

RUN_SECONDS = 90.0
"""How long a run may take before it is called stuck."""


def context() -> ForkServerContext:
    """Processes are forks of one that has imported torch and upstream's classes: it is 2 s each."""
    made = multiprocessing.get_context("forkserver")
    # A child imports its parent's main module again, which is pytest.
    made.set_forkserver_preload(["pytest", "tests.upstream.loops.preloaded"])
    return made


class Gone(Exception):
    """The process ended without an answer."""


class Process:
    """One process of a run. Not for two threads at once, except `kill`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self._settings = settings
        self._answers: dict[str, Any] = {}
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = context().Process(
            target=actor.main, args=(theirs, settings, name), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(self, method: str) -> None:
        """Calls a method; see `answer`."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says so
            self.pipe.send(method)

    def answer(self, method: str, end: float) -> Any:
        """What a call gave. Raises Gone, or AssertionError with what the call raised or with the
        log, where there is no answer by `end` (of `time.monotonic()`)."""
        while method not in self._answers:
            self.take(end)
        return self._answers.pop(method)

    def take(self, end: float) -> str:
        """Takes the next answer and says of which method it is. Raises as `answer`."""
        if not self.pipe.poll(max(0.0, end - time.monotonic())):
            raise AssertionError(f"{self.name} is stuck:\n{self.log}")
        try:
            method, error, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise Gone(self.name) from None
        assert error is None, f"{self.name}.{method}:\n{error}\n{self.log}"
        self._answers[method] = value
        return str(method)

    @property
    def log(self) -> str:
        """What it wrote to standard output and standard error."""
        return self._settings.log(self.name).read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def end(self) -> int:
        """Lets it end by itself; its exit code."""
        self.pipe.close()
        self._process.join(20.0)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"{self.name} does not end:\n{self.log}")
        code: int = self._process.exitcode
        self._process.close()
        return code


class End(NamedTuple):
    """What the synchronizer says when both loops have ended."""

    explorers: dict[str, int]
    trainer_requires_sync: bool | None
    version: int


class Launcher:
    """A run; made by `launched`. `killed` are the names of those that the test kills."""

    end: End

    def __init__(self, settings: Settings, killed: tuple[str, ...]) -> None:
        self.settings = settings
        self.killed = killed
        settings.checkpoints.mkdir(parents=True)
        self.processes = {name: Process(settings, name) for name in settings.names}
        self._end = time.monotonic() + RUN_SECONDS

    def run(self) -> None:
        """Both loops to their ends. Raises AssertionError where a call failed.

        One explorer is run as in mode `both`, but not in the fully asynchronous style: there
        upstream hangs until `sync_timeout`. The watcher that `prepare` starts is told version 0,
        and the launcher's `sync_weight`, which comes when the trainer is prepared too, then waits
        for a newer one that nobody makes before the loops begin.
        """
        if self.settings.explorers == 1 and self.settings.style != "fully_async":
            self._both()
        else:
            self._apart()
        self.end = End(
            self._ask("get_explorer_status_counts"),
            self._ask("trainer_requires_weight_sync"),
            self._ask("get_latest_model_version"),
        )
        self.call("shutdown", *self.processes)

    def call(self, method: str, *names: str) -> None:
        """Calls it on all of them at once, and waits for all answers."""
        for name in names:
            self.processes[name].tell(method)
        self.wait_for(method, *names)

    def _ask(self, method: str) -> Any:
        """Of the synchronizer, by the trainer's handle."""
        trainer = self.processes[self.settings.trainer]
        trainer.tell(f"synchronizer.{method}")
        return trainer.answer(f"synchronizer.{method}", self._end)

    def _both(self) -> None:
        """Mode `both`: one explorer, in step with the trainer until the loops begin."""
        explorer, trainer = self.settings.explorer_names[0], self.settings.trainer
        self.wait_for("__init__", explorer, trainer)
        self.call("prepare", explorer, trainer)
        self.call("sync_weight", explorer, trainer)
        self.processes[explorer].tell("explore")
        self.processes[trainer].tell("train")
        self.wait_for("train", trainer)
        self.wait_for("explore", explorer)

    def _apart(self) -> None:
        """Mode `train`, and mode `explore` for each explorer, which know nothing of each other."""
        trainer, explorers = self.settings.trainer, self.settings.explorer_names
        self.wait_for("__init__", trainer)
        self.call("prepare", trainer)
        steps = {trainer: iter(("sync_weight", "train"))}
        # In one call, or the watcher of the fully asynchronous style might be the first; see `run`.
        steps |= {name: iter(("prepare sync_weight", "explore")) for name in explorers}
        pipes: dict[Connection, str] = {}
        for name in steps:
            pipes[self.processes[name].pipe] = name
        self.processes[trainer].tell(next(steps[trainer]))
        while pipes:
            ready = wait(list(pipes), max(0.0, self._end - time.monotonic()))
            assert ready, f"stuck: {sorted(pipes.values())}\n{self.logs()}"
            for pipe in ready:
                assert isinstance(pipe, Connection)
                name = pipes[pipe]
                step = next(steps[name], None) if self._took(name) else None
                if step is None:
                    del pipes[pipe]
                else:
                    self.processes[name].tell(step)

    def _took(self, name: str) -> bool:
        try:
            self.processes[name].take(self._end)
        except Gone:
            assert name in self.killed, f"{name} is gone:\n{self.logs()}"
            return False
        return True

    def wait_for(self, method: str, *names: str) -> None:
        """Waits for the answers of all of them."""
        for name in names:
            self._answer(name, method)

    def _answer(self, name: str, method: str) -> None:
        try:
            self.processes[name].answer(method, self._end)
        except Gone:
            assert name in self.killed, f"{name} is gone:\n{self.logs()}"

    def logs(self) -> str:
        """What all processes logged."""
        return "\n".join(f"=== {name}\n{made.log}" for name, made in self.processes.items())


@contextlib.contextmanager
def launched(settings: Settings, *, killed: tuple[str, ...] = ()) -> Iterator[Launcher]:
    """The processes of a run, not told anything yet. At the end of the block all of them have
    ended, with exit code 0 unless they were killed."""
    made = Launcher(settings, killed)
    try:
        yield made
    except BaseException:
        for process in made.processes.values():
            process.kill()
        raise
    finally:
        codes = {name: process.end() for name, process in made.processes.items()}
    wrong = {name: code for name, code in codes.items() if code != 0 and name not in killed}
    assert not wrong, f"{wrong}\n{made.logs()}"
