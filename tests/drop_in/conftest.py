"""Handles on the shared server, each test with a run of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sync_client.trinity import SynchronizerHandle, get_actor
from tests.servers import ServerProcess

MakeHandle = Callable[..., SynchronizerHandle]


def make_config(namespace: str, directory: Path | str = "/job", **changes: Any) -> Any:
    """As much of a Trinity-RFT configuration as matters here."""
    synchronizer = {"sync_timeout": 20, "sync_method": "memory", "explorer_world_size": 1}
    return SimpleNamespace(
        ray_namespace=namespace,
        mode="both",
        checkpoint_job_dir=str(directory),
        trainer=SimpleNamespace(
            name=changes.pop("trainer", "trainer"),
            trainer_type=changes.pop("trainer_type", "verl"),
        ),
        explorer=SimpleNamespace(name=changes.pop("explorer", "explorer")),
        synchronizer=SimpleNamespace(**{**synchronizer, **changes}),
    )


@pytest.fixture
def handle(server: ServerProcess, run_id: str) -> Iterator[SynchronizerHandle]:
    """A handle with a configuration."""
    made = get_actor(make_config(run_id), server=server.address)
    yield made
    made.close()


class Other:
    """Another process, which runs a script line by line; made by `another_process`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, line: str) -> str:
        """Runs one line of Python there and gives what it prints, or the class of its error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


_SCRIPT = """
import sys, torch
from types import SimpleNamespace
from sync_client.trinity import get, get_actor
from tests.drop_in.conftest import make_config
namespace = dict(globals())
for line in sys.stdin:
    try:
        print(eval(line, namespace), flush=True)
    except SyntaxError:
        exec(line, namespace); print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


@contextmanager
def another_process(server: ServerProcess, prepare: str) -> Iterator[Other]:
    """A process that has run `prepare` (with get_actor, get, make_config, torch and SERVER)."""
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        other = Other(process)
        try:
            other.run(f"SERVER = {server.address!r}")
            said = other.run(prepare)
            assert said == "done", said
            yield other
        finally:
            process.kill()
