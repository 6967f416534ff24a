"""`weightsync demo`, with real processes: it learns only through the weights, and ends cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from sync_client import SyncClient, WorkerState
from sync_client.demo.events import Acted, Event, Pulled, Pushed, parse
from sync_client.demo.picture import CHANCE
from sync_client.demo.story import Story
from sync_client.errors import RunNotFound
from tests.servers import ServerProcess
from tests.until import until

_SCRIPT = str(Path(sys.executable).with_name("weightsync"))
_SECONDS = 100.0
_STEPS = 50


class Demo:
    """`weightsync demo` with these arguments, running; its files are under `directory`."""

    def __init__(
        self, directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.out = directory / "out"
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self._err = directory / "err.txt"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTSYNC_")}
        with self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [_SCRIPT, "demo", "--out", str(self.out), *arguments],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env={**clean, "TMPDIR": str(self.temporary), **(environment or {})},
            )
        self.children: set[psutil.Process] = set()

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text(encoding="utf-8")

    def find(self, *words: str) -> psutil.Process | None:
        """The child whose command line has all these words in a row; remembers all children."""
        self.children |= set(psutil.Process(self.process.pid).children(recursive=True))
        for child in self.children:
            try:
                if " ".join(words) in " ".join(child.cmdline()):
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def everybody(self) -> set[psutil.Process]:
        """The children, once the server, the trainer and both explorers are there."""
        until(lambda: self.find("--name explorer-1"), timeout=60)
        assert len(self.children) == 4
        return self.children

    def end(self) -> tuple[int, str, str]:
        """Waits for the end: (exit code, standard output, standard error)."""
        out, _ = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, out, self.err

    def assert_nothing_is_left(self) -> None:
        """No process that was seen runs, and no temporary file is there."""
        assert [child for child in self.children if child.is_running()] == []
        assert list(self.temporary.iterdir()) == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts a demo in a directory of its own; what still runs at the end is killed."""
    started: list[Demo] = []

    def make(*arguments: str, **options: Any) -> Demo:
        demo = Demo(tmp_path / str(len(started)), *arguments, **options)
        started.append(demo)
        return demo

    yield make
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()  # the leash ends the others
            demo.process.communicate()


def test_the_reward_rises_only_if_the_weights_arrive(start: Callable[..., Demo]) -> None:
    steps = ("--steps", str(_STEPS), "--json")
    demos = [start(*steps), start(*steps, "--explorers", "1", "--frozen")]
    learned, frozen = (_summary(demo) for demo in demos)

    assert learned["start_reward"] < 4 * CHANCE
    assert learned["final_reward"] > 0.3
    assert learned["versions_pushed"] == _STEPS + 1
    assert [explorer["name"] for explorer in learned["explorers"]] == ["explorer-0", "explorer-1"]
    for explorer in learned["explorers"]:
        assert 1 < explorer["pulls"] <= _STEPS + 1
        assert explorer["pulls"] == explorer["same_digest"] == explorer["batches"]
        assert explorer["final_version"] == _STEPS
        assert explorer["pull_mb_per_s"] > 0

    # The same trainer and as many steps, but the explorer only waits and never pulls.
    assert frozen["versions_pushed"] == _STEPS + 1
    assert frozen["explorers"][0]["pulls"] == 0
    assert frozen["explorers"][0]["batches"] > 10
    assert frozen["final_reward"] < 4 * CHANCE


def _summary(demo: Demo) -> Any:
    code, out, err = demo.end()
    assert code == 0, err
    summary = json.loads(out)
    picture = Path(summary["picture"])
    assert picture.parent == demo.out
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"step {_STEPS}/{_STEPS}" in err, "no plain line, without a terminal"
    demo.assert_nothing_is_left()
    return summary


def test_a_killed_explorer_is_named_and_everything_ends(
    start: Callable[..., Demo], server: ServerProcess, run_id: str
) -> None:
    demo = start("--server", server.address, "--run", run_id, "--steps", "100000")
    explorer = until(lambda: demo.find("--name explorer-0"), timeout=60)
    assert explorer is not None
    with SyncClient(server.address, run=run_id) as client:
        until(lambda: _has_acted(client), timeout=_SECONDS)
        explorer.send_signal(signal.SIGKILL)
        code, _, err = demo.end()
        assert code == 1
        assert f"explorer-0 (pid {explorer.pid}) was killed by SIGKILL" in err
        assert "Traceback" not in err
        demo.assert_nothing_is_left()
        # The others took their leave.
        status = client.status()
        assert status.trainer_state is WorkerState.STOPPED
        assert [worker.name for worker in status.workers if worker.name == "explorer-1"] == []


def _has_acted(client: SyncClient) -> bool:
    try:
        status = client.status()
    except RunNotFound:
        return False  # the trainer is still starting
    versions = {worker.name: worker.version for worker in status.workers}
    return all((versions.get(f"explorer-{i}") or 0) > 2 for i in range(2))


def test_a_dead_server_is_named_with_its_last_lines(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.everybody()
    server = demo.find("sync_server serve")
    assert server is not None
    server.send_signal(signal.SIGKILL)
    code, _, err = demo.end()
    assert code == 1
    *log, last = err.splitlines()
    assert f"server (pid {server.pid}) was killed by SIGKILL" in last
    assert any(line.startswith("  | ") and "serving" in line for line in log)
    demo.assert_nothing_is_left()


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(
    start: Callable[..., Demo], number: signal.Signals, expected: int
) -> None:
    demo = start()
    demo.everybody()
    demo.process.send_signal(number)
    code, _, err = demo.end()
    assert code == expected
    assert "Traceback" not in err
    demo.assert_nothing_is_left()


def test_nobody_outlives_a_demo_that_was_killed(start: Callable[..., Demo]) -> None:
    demo = start()
    children = demo.everybody()
    demo.process.kill()
    demo.process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_what_keeps_it_from_starting_is_one_line(
    start: Callable[..., Demo], server: ServerProcess, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with SyncClient(server.address, run=run_id) as client:
        client.register("explorer")
    demos = {
        "can't write to": (1, start("--out", str(tmp_path / "file" / "out"))),
        "[SERVER_UNAVAILABLE]": (3, start("--server", "127.0.0.1:1")),
        "'no/run'": (2, start("--run", "no/run")),
        "already": (2, start("--server", server.address, "--run", run_id)),
    }
    for text, (expected, demo) in demos.items():
        code, out, err = demo.end()
        assert (code, out) == (expected, ""), err
        assert text in err
        assert err.count("\n") == 1
        demo.assert_nothing_is_left()


@pytest.mark.parametrize("module", ["transformers", "matplotlib"])
def test_what_is_missing_is_named_with_the_extra(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from sync_server.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "demo"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert module in ended.stderr
    assert "pip install 'weightsync[demo]'" in ended.stderr


def test_the_story_counts_what_happened() -> None:
    story = Story(["a", "b"])
    events: list[Event] = [
        Pushed("trainer", 10.0, 10.08, 10.1, version=0, size=1_000_000, samples=0),
        Pulled("a", 10.2, version=0, size=1_000_000, seconds=0.05, same=True, verified=True),
        Acted("a", 10.3, version=0, reward=0.1, text=""),
        Acted("b", 10.3, version=None, reward=0.0, text=""),
        Pushed("trainer", 10.4, 10.48, 10.5, version=1, size=1_000_000, samples=64),
        Pushed("trainer", 10.6, 10.68, 10.7, version=2, size=1_000_000, samples=64),
        Acted("a", 10.8, version=0, reward=0.1, text=""),
        Pulled("a", 10.9, version=2, size=1_000_000, seconds=0.1, same=True, verified=False),
        *(Acted("a", 11.0 + i, version=2, reward=0.9, text="") for i in range(3)),
    ]
    for event in events:
        story.add(event)
    assert story.newest == 2
    assert story.reward("a") == pytest.approx(0.9)
    summary = story.summary()
    assert (summary.steps, summary.versions_pushed, summary.samples) == (2, 3, 128)
    assert summary.seconds == pytest.approx(3.0)
    assert summary.push_mb_per_s == pytest.approx(10.0)
    assert (summary.pulls, summary.same_digest) == (2, 2)
    a, b = summary.explorers
    assert (a.pulls, a.verified, a.max_lag, a.final_version) == (2, 1, 2, 2)
    assert a.delay_ms == pytest.approx(250.0)
    assert a.final_reward == pytest.approx(0.9)
    assert (b.pulls, b.max_lag, b.delay_ms, b.final_version) == (0, None, None, None)


def test_only_events_are_taken_for_events() -> None:
    line = '{"kind": "Acted", "who": "a", "ended": 1.0, "version": 2, "reward": 0.5, "text": "x"}'
    assert parse(line) == Acted("a", 1.0, 2, 0.5, "x")
    for other in ("", "Loading weights: 100%", "[]", "{}", '{"kind": "Acted"}', '{"kind": "No"}'):
        assert parse(other) is None
