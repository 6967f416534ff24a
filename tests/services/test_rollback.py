"""Going back to an earlier version, and forward again."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sync_client import SyncClient, errors
from tests.servers import ServerProcess, running_server
from tests.until import until


def weights(number: int) -> dict[str, torch.Tensor]:
    """A state dict that tells its number."""
    return {"w": torch.full((4,), float(number))}


def value(client: SyncClient) -> float:
    """What an explorer gets now."""
    return float(client.pull().state_dict["w"][0])


@pytest.fixture
def pushed(client: SyncClient) -> SyncClient:
    """A run with versions 40 and 50."""
    for number in (40, 50):
        client.push(weights(number), number)
    return client


def test_who_waits_is_given_the_earlier_version_as_new(pushed: SyncClient) -> None:
    before = pushed.status().revision
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pushed.wait, 50, 20.0)
        until(lambda: pushed.status().waiters)
        info = pushed.rollback(40)
        found = waiting.result()
    assert (info.version, info.revision) == (40, before + 1)
    assert (found.version, found.rewound) == (40, True)
    assert value(pushed) == 40
    assert [v.version for v in pushed.versions()] == [40, 50]
    assert pushed.wait_version(40, timeout=0) is None


def test_forward_again(pushed: SyncClient) -> None:
    pushed.rollback(40)
    assert pushed.rollback(50).version == 50
    assert value(pushed) == 50
    assert pushed.wait_version(40, timeout=0) == 50
    assert pushed.wait_version(50, timeout=0) is None


def test_to_where_it_is_changes_nothing(pushed: SyncClient) -> None:
    before = pushed.status().revision
    assert pushed.rollback(50).version == 50
    assert pushed.status().revision == before


def test_the_trainer_goes_on_from_there(client: SyncClient) -> None:
    trainer = client.register("trainer")
    for number in (40, 50):
        trainer.push(weights(number), number)
    client.rollback(40)
    with pytest.raises(errors.VersionNotNewer):
        trainer.push(weights(39), 39)
    trainer.push(weights(45), 45)  # as one that resumed from 40
    assert value(client) == 45
    assert [v.version for v in client.versions()] == [45, 40]
    assert client.wait_version(50, timeout=0) == 45
    trainer.push(weights(51), 51)
    assert client.wait_version(45, timeout=0) == 51


def test_what_is_not_there_is_refused(pushed: SyncClient) -> None:
    pushed.push(weights(60), 60)  # retires 40
    before = pushed.status().revision
    with pytest.raises(errors.VersionRetired):
        pushed.rollback(40)
    with pytest.raises(errors.VersionNotFound):
        pushed.rollback(99)
    with pytest.raises(errors.InvalidArgument):
        pushed.rollback(-1)
    assert pushed.status().revision == before


def test_it_survives_a_crash(run_id: str) -> None:
    with (
        running_server() as server,
        SyncClient(server.address, run=run_id, retry_for=20) as client,
    ):
        for number in (40, 50):
            client.push(weights(number), number)
        client.rollback(40)
        server.restart()
        assert value(client) == 40
        assert client.status().latest_version == 40
        assert client.wait_version(50, timeout=0) == 40  # who has 50 must still go back
        assert client.rollback(50).version == 50


def test_the_command(server: ServerProcess, pushed: SyncClient) -> None:
    command = [sys.executable, "-m", "sync_server", "rollback", "40"]
    where = ["--server", server.address, "--run", pushed.run]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=True)
    assert done.stdout == f"run {pushed.run} is at version 40 again\n"
    done = subprocess.run([*command, *where, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["version"] == 40
    done = subprocess.run(
        [*command[:-1], "41", *where], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no version 41" in done.stderr
