"""wait and watch: what they print, when they end, and with which code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from sync_client import SyncClient
from tests.cli.conftest import Cli, MakeFile
from tests.cli.runner import Command, together
from tests.servers import ServerProcess, running_server
from tests.until import until

WAIT_KEYS = {
    "run",
    "reached",
    "version",
    "digest",
    "rewound",
    "outcome",
    "trainer_state",
    "revision",
}
EVENT_KEYS = {"revision", "time", "kind", "worker", "version", "snapshot", "name", "detail"}


@pytest.fixture
def started(server: ServerProcess, run_id: str) -> Iterator[list[Command]]:
    """Commands to be ended with the test."""
    commands: list[Command] = []
    yield commands
    for command in commands:
        command.process.kill()
        command.process.communicate()


def test_wait_ends_with_the_push(
    cli: Cli, server: ServerProcess, client: SyncClient, make_file: MakeFile
) -> None:
    client.push_file(make_file(1), 1)
    assert cli("wait").out == "1\n", "any version is newer than none"
    target = ("--server", server.address, "--run", client.run)
    waiting = Command("wait", "--after", "1", "--timeout", "60", *target)
    as_json = Command("wait", "--after", "1", "--json", *target)
    until(lambda: len(client.status().waiters) == 2)
    info = client.push_file(make_file(2), 2)
    assert waiting.end().out == "2\n"
    answer = as_json.end()
    assert answer.code == 0
    assert set(answer.json) == WAIT_KEYS
    assert (answer.json["reached"], answer.json["digest"]) == (True, info.digest)


def test_wait_gives_up(cli: Cli, client: SyncClient, make_file: MakeFile) -> None:
    cli("wait", "--timeout", "0.1").failed(1, "[RUN_NOT_FOUND]")
    client.push_file(make_file(1), 1)
    began = time.monotonic()
    late = cli("wait", "--after", "1", "--timeout", "0.3", "--json")
    late.failed(4, "no version after 1", "0.3 s", "[TIMED_OUT]")
    assert time.monotonic() - began > 0.3
    assert set(late.json) == WAIT_KEYS
    assert (late.json["reached"], late.json["version"]) == (False, 1)
    cli("wait", "--after", "1", "--timeout", "-1").failed(2, "--timeout")


def test_wait_ends_when_the_trainer_stops(
    cli: Cli, client: SyncClient, make_file: MakeFile
) -> None:
    with client.register("trainer") as trainer:
        client_push = make_file(1)
        trainer.set_state("STOPPED")
        client.push_file(client_push, 1)
        cli("wait", "--after", "1", "--timeout", "60").failed(1, "stopped", "[TRAINER_STOPPED]")


def test_watch_prints_a_push_as_it_happens(
    server: ServerProcess, client: SyncClient, make_file: MakeFile, started: list[Command]
) -> None:
    client.push_file(make_file(1), 1)
    target = ("--server", server.address, "--run", client.run)
    as_json, for_people = Command("watch", "--json", *target), Command("watch", *target)
    started += [as_json, for_people]
    first = json.loads(as_json.line())
    assert set(first) == EVENT_KEYS
    assert (first["kind"], first["snapshot"]["latest_version"]) == ("snapshot", 1)
    assert "snapshot: 0 workers, newest version 1" in for_people.line()
    client.push_file(make_file(2), 2)
    event = json.loads(as_json.line())
    assert set(event) == EVENT_KEYS
    assert (event["kind"], event["version"]["version"]) == ("weight_version", 2)
    assert event["revision"] > first["revision"]
    assert "version 2: 1.2 MB in 2 tensors" in for_people.line()

    later = Command("watch", "--json", "--after-revision", str(first["revision"]), *target)
    started.append(later)
    assert json.loads(later.line()) == event, "it goes on where it was told to"

    client.register("explorer", name="explorer-0").close()
    assert "explorer explorer-0: RUNNING" in for_people.line()
    assert "deregistered worker explorer-0" in for_people.line()


def test_a_server_that_stops_releases_everybody(make_file: MakeFile) -> None:
    with running_server() as server, SyncClient(server.address) as client:
        client.push_file(make_file(1), 1)
        waiting = Command("wait", "--after", "1", "--timeout", "60", "--server", server.address)
        watching = Command("watch", "--server", server.address)
        watching.line()
        until(lambda: client.status().waiters)
        began = time.monotonic()
        assert server.stop() == 0
        for ended in together(waiting, watching):
            ended.failed(3)  # the last word of the server, or that it is gone
            assert "[SHUTTING_DOWN]" in ended.err or server.address in ended.err
        assert time.monotonic() - began < 10, "one would have been the wait's own timeout"
