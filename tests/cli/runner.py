"""Runs the real console script in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = str(Path(sys.executable).with_name("weightsync"))
_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    def failed(self, code: int, *texts: str) -> None:
        """Asserts the exit code, and one line on standard error that holds `texts`."""
        assert self.code == code, self
        assert self.err.count("\n") == 1, self
        assert self.err.startswith("weightsync: "), self
        for text in texts:
            assert text in self.err, self


class Command:
    """`weightsync` with these arguments, running. No variable of ours comes from outside."""

    def __init__(
        self,
        *arguments: str | Path,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTSYNC_")}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.process = subprocess.Popen(
            [*prefix, SCRIPT, *map(str, arguments)],
            env={**clean, **(env or {})},
            text=True,
            encoding="utf-8",
            **options,
        )

    def line(self) -> str:
        """The next line of standard output, as soon as it comes."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> Ended:
        """Waits for the end."""
        try:
            out, err = self.process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return Ended(self.process.returncode, out or "", err or "")


def weightsync(*arguments: str | Path, **options: Any) -> Ended:
    """Runs a command to its end."""
    return Command(*arguments, **options).end()


def together(*commands: Command) -> list[Ended]:
    """Waits for commands that were started side by side."""
    return [command.end() for command in commands]
