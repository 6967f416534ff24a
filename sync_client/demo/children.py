"""The demo's processes: started with a leash, listened to, and ended in order, by their pids."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sync_client.demo import events
from sync_client.demo.signals import undisturbed

_GRACE_SECONDS = 5.0
_LAST_LINES = 12


class ChildDied(Exception):
    """A process ended that should not have; the message says which, and how.

    last_lines: what it wrote to standard error at last.
    """

    def __init__(self, message: str, last_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)


class Child:
    """One process. What it prints in the form of events goes to `inbox`, the rest to its log."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str],
        inbox: queue.SimpleQueue[events.Event],
    ) -> None:
        self.name = name
        self._log = log
        self._inbox = inbox
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sync_client.demo.leash", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                # Ctrl-C is for the one who started them; they are ended in order then.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def died(self) -> ChildDied:
        """What to say of one that has ended."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return ChildDied(f"{self.name} (pid {self.pid}) {self._how()}", lines[-_LAST_LINES:])

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        if self.code is None:
            self._process.terminate()

    def join(self, end: float) -> None:
        """Waits until `end` (monotonic seconds), kills it if it still runs, and reaps it."""
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                event = events.parse(line)
                if event is not None:
                    self._inbox.put(event)

    def _how(self) -> str:
        code = self.code
        assert code is not None
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "ended too early" if code == 0 else f"failed with exit code {code}"


class Children:
    """All processes of a demo. At the end of the `with` block none of them runs.

    directory: for their logs and for whatever they take for temporary (torch makes a directory).
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.inbox: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._directory = directory
        self._environment = {**environment, "TMPDIR": str(directory)}
        self._children: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The server goes last: the workers take their leave from a living one.
        with undisturbed():
            for group in (self._children[1:], self._children[:1]):
                for child in group:
                    child.terminate()
                end = time.monotonic() + _GRACE_SECONDS
                for child in group:
                    child.join(end)

    @property
    def all(self) -> Sequence[Child]:
        """All of them, in the order in which they were started."""
        return tuple(self._children)

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Starts `python -m module arguments`; the server, if any, first."""
        log = self._directory / f"{name}.log"
        with undisturbed():
            child = Child(name, module, list(arguments), log, self._environment, self.inbox)
            self._children.append(child)
        return child


def clean_environment(**given: str | None) -> dict[str, str]:
    """This process's environment without the variables of weightsync, but for `given`.

    token="x" becomes WEIGHTSYNC_TOKEN. Transformers is told to stay off the network.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTSYNC_")}
    ours = {f"WEIGHTSYNC_{k.upper()}": v for k, v in given.items() if v is not None}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "GRPC_VERBOSITY": "NONE"}
    return {**kept, **ours, **quiet}
