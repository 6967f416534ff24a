"""Starts the server, the trainer and the explorers, follows them to the end, and ends them."""

from __future__ import annotations

import json
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sync_client import RunStatus, SyncClient, SyncError
from sync_client.demo.children import Child, ChildDied, Children
from sync_client.demo.story import Story

_LOOK_SECONDS = 0.1
_STATUS_SECONDS = 0.25
# Nothing at all happened for so long: something hangs. Starting takes 5 s of processor time each.
_STALL_SECONDS = 120.0
# More than the server's default, so that a version is still known when it is reported as loaded.
_KEEP_VERSIONS = 8

Show = Callable[[Story, "RunStatus | None"], None]


@dataclass(frozen=True)
class Settings:
    """One demo. server: HOST:PORT of a running one; None starts one. `environment`: the children's.

    frozen: the explorers never pull.
    """

    run: str
    steps: int
    explorers: int
    seed: int
    frozen: bool
    server: str | None
    environment: Mapping[str, str]


def play(settings: Settings, show: Show) -> Story:
    """Plays the demo to its end and tells the story; `show` is called several times a second.

    Raises ChildDied. However it ends, no process is left, and no file.
    """
    names = [f"explorer-{index}" for index in range(settings.explorers)]
    story = Story(names)
    with (
        tempfile.TemporaryDirectory(prefix="weightsync-demo-", ignore_cleanup_errors=True) as name,
        Children(Path(name), settings.environment) as children,
    ):
        directory = Path(name)
        spool = directory / "samples"
        spool.mkdir()
        server = settings.server or _start_server(children, directory)
        common = ["--server", server, "--run", settings.run, "--spool", str(spool)]
        trainer = children.start(
            "trainer",
            "sync_client.demo.trainer",
            *common,
            *("--steps", str(settings.steps), "--explorers", str(settings.explorers)),
            *("--seed", str(settings.seed)),
        )
        explorers = [
            children.start(
                explorer,
                "sync_client.demo.explorer",
                *common,
                # Seeds of their own: nobody starts with the trainer's weights.
                *("--seed", str(settings.seed + 1 + index), "--name", explorer),
                *(["--frozen"] if settings.frozen else []),
            )
            for index, explorer in enumerate(names)
        ]
        with _watcher(settings, server) as status:
            _follow(children, [trainer, *explorers], story, lambda: show(story, status()))
    _drain(children, story)
    return story


def _start_server(children: Children, directory: Path) -> str:
    ready = directory / "ready.json"
    server = children.start(
        "server",
        "sync_server",
        *("serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready)),
        *("--data-dir", str(directory / "data"), "--keep-versions", str(_KEEP_VERSIONS)),
    )
    end = time.monotonic() + _STALL_SECONDS
    while not ready.exists():
        if server.code is not None:
            raise server.died()
        if time.monotonic() > end:
            raise ChildDied(f"the server was not ready within {_STALL_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS / 10)
    return str(json.loads(ready.read_text(encoding="utf-8"))["grpc"])


def _follow(
    children: Children, workers: Sequence[Child], story: Story, show: Callable[[], None]
) -> None:
    """Until all workers ended well. Raises ChildDied."""
    alive = time.monotonic()
    while not all(worker.code == 0 for worker in workers):
        if _drain(children, story, _LOOK_SECONDS):
            alive = time.monotonic()
        show()
        # In the order in which they were started: what the server's death kills is not to blame.
        for child in children.all:
            if child.code is not None and (child.code != 0 or child not in workers):
                raise child.died()
        if time.monotonic() - alive > _STALL_SECONDS:
            raise ChildDied(f"nothing happened for {_STALL_SECONDS:g} s; is the machine very busy?")


def _drain(children: Children, story: Story, patience: float | None = None) -> bool:
    """Takes in what there is, waiting `patience` seconds for the first event."""
    found = False
    while True:
        try:
            event = children.inbox.get(patience is not None and not found, patience)
        except queue.Empty:
            return found
        story.add(event)
        found = True


@contextmanager
def _watcher(settings: Settings, server: str) -> Iterator[Callable[[], RunStatus | None]]:
    """What the server says of the run, asked for now and then."""
    credentials = {
        option: settings.environment.get(f"WEIGHTSYNC_{option.upper()}")
        for option in ("token", "ca_cert", "cert", "key")
    }
    found: RunStatus | None = None
    asked = 0.0
    with SyncClient(server, run=settings.run, retry_for=0.0, **credentials) as client:

        def status() -> RunStatus | None:
            nonlocal found, asked
            if time.monotonic() - asked > _STATUS_SECONDS:
                asked = time.monotonic()
                try:
                    found = client.status()
                except SyncError:
                    pass  # not registered yet; or the server died, and that is noticed elsewhere
            return found

        yield status
