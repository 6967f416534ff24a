"""A server of this host for one job: found by all, there again after kill -9, gone at last."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.drop_in.conftest import another_process
from tests.servers import ServerProcess
from tests.until import until

START = "h = get_actor(namespace='job', server='embedded')"


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of the processes of this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"weightsync-{os.getuid()}" / "job"


def pid_of(place: Path) -> int:
    """The server's process."""
    return int(json.loads((place / "ready.json").read_text())["pid"])


def alive(pid: int) -> bool:
    """Whether the process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_is_started_once_and_ends_with_the_last(server: ServerProcess, own_place: Path) -> None:
    with another_process(server, START) as first:
        assert first.run("get(h.set_trainer_status.remote('running'))") == "None"
        pid = pid_of(own_place)
        with another_process(server, START) as second:
            push = "get(h.set_model_state_dict.remote({'a': torch.ones(3)}, 1))"
            assert second.run(push) == "None"
            first.process.kill()
            first.process.wait()
            assert second.run("get(h.get_latest_model_version.remote())") == "1"
            assert pid_of(own_place) == pid
            assert alive(pid)
    until(lambda: not alive(pid))
    with another_process(server, START) as again:  # what the job of that name had is there
        assert again.run("get(h.get_latest_model_version.remote())") == "1"
        assert pid_of(own_place) != pid
    until(lambda: not alive(pid_of(own_place)))


def test_one_that_was_killed_is_started_again(server: ServerProcess, own_place: Path) -> None:
    with another_process(server, START) as job:
        assert job.run("get(h.set_trainer_status.remote('running'))") == "None"
        pid = pid_of(own_place)
        os.kill(pid, signal.SIGKILL)
        push = "get(h.set_model_state_dict.remote({'a': torch.ones(3)}, 1))"
        assert job.run(push) == "None"
        assert pid_of(own_place) != pid
    until(lambda: not alive(pid_of(own_place)))


def test_a_directory_that_others_may_write_is_refused(
    server: ServerProcess, own_place: Path
) -> None:
    own_place.parent.mkdir(mode=0o777)
    own_place.parent.chmod(0o777)
    with another_process(server, "x = 1") as job:
        said = job.run("get_actor(namespace='job', server='embedded')")
    assert said.startswith("ServerUnavailable "), said
    assert "not a directory of this user alone" in said
