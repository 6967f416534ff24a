"""push, pull, versions, status, pin, delete, health: the way of a version, and its JSON."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from sync_client import SyncClient
from tests.cli.conftest import Cli, MakeFile
from tests.cli.runner import Command, together
from tests.servers import ServerProcess

VERSION_KEYS = {
    "version",
    "digest",
    "size",
    "revision",
    "tensor_count",
    "commit_time",
    "pushed_by",
    "pins",
    "source",
    "reference",
}
MOVED_KEYS = {"run", "file", "bytes", "seconds", "mb_per_second"}


def test_a_file_comes_back_byte_for_byte(cli: Cli, make_file: MakeFile, tmp_path: Path) -> None:
    file, out = make_file(), tmp_path / "out.safetensors"
    pushed = cli("push", file, "--version", "7", "--json")
    assert pushed.code == 0, pushed
    assert pushed.err == ""
    assert set(pushed.json) == VERSION_KEYS | MOVED_KEYS
    assert (pushed.json["version"], pushed.json["tensor_count"]) == (7, 2)
    assert pushed.json["bytes"] == pushed.json["size"] == file.stat().st_size

    pulled = cli("pull", "--out", out)  # the newest
    assert pulled.code == 0, pulled
    assert pulled.out.startswith("pulled version 7: 1.2 MB in ")
    assert "MB/s" in pulled.out
    assert pushed.json["digest"] in pulled.out
    assert out.read_bytes() == file.read_bytes()


def test_one_tensor_of_a_version(cli: Cli, make_file: MakeFile, tmp_path: Path) -> None:
    file, out = make_file(), tmp_path / "part.safetensors"
    assert cli("push", file, "--version", "1").code == 0
    pulled = cli("pull", "--out", out, "--version", "1", "--name", "bias", "--json")
    assert set(pulled.json) == VERSION_KEYS | MOVED_KEYS
    assert pulled.json["bytes"] == out.stat().st_size < 1000
    part, whole = load_file(out), load_file(file)
    assert set(part) == {"bias"}
    assert (part["bias"] == whole["bias"]).all()
    cli("pull", "--out", out, "--name", "zzz").failed(1, "zzz", "[TENSOR_NOT_FOUND]")
    assert set(load_file(out)) == {"bias"}, "a pull that failed left the file alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, out.name]


def test_what_there_is(cli: Cli, make_file: MakeFile, client: SyncClient) -> None:
    with client.register("trainer", name="[red]trainer") as trainer:
        status = cli("status", "--json")
        assert status.json["latest_version"] is None
        assert status.json["trainer_state"] == "RUNNING"
        cli("push", make_file(), "--version", "1").failed(1, "[TRAINER_ACTIVE]", "[red]trainer")
        assert "[red]trainer" in cli("status").out, "a name is no markup"
        trainer.set_state("STOPPED")
    assert cli("push", make_file(1), "--version", "1").code == 0
    assert cli("push", make_file(2), "--version", "2").code == 0
    explorer = client.register("explorer", name="explorer-0")
    explorer.report_applied(2, client.versions()[0].digest)

    status = cli("status", "--json")
    assert set(status.json) >= {
        "run",
        "revision",
        "trainer_state",
        "explorer_state_counts",
        "workers",
        "latest_version",
        "latest",
        "waiters",
    }
    assert status.json["explorer_state_counts"] == {"RUNNING": 1}
    assert set(status.json["latest"]) == VERSION_KEYS
    by_name = {worker["name"]: worker for worker in status.json["workers"]}
    assert set(by_name["explorer-0"]) >= {"name", "role", "state", "generation", "version"}
    assert (by_name["explorer-0"]["version"], by_name["explorer-0"]["verified"]) == (2, True)
    shown = cli("status").out
    assert "version 2 (1.2 MB" in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("explorer-0"))
    assert row.split()[1:3] == ["explorer", "RUNNING"]

    versions = cli("versions", "--json")
    assert set(versions.json) == {"run", "versions"}
    assert [set(version) for version in versions.json["versions"]] == [VERSION_KEYS] * 2
    assert [version["version"] for version in versions.json["versions"]] == [2, 1]
    header, *rows = cli("versions").out.splitlines()
    assert header.split()[:3] == ["VERSION", "SIZE", "TENSORS"]
    assert [row.split()[0] for row in rows] == ["2", "1"]


def test_pin_and_delete(cli: Cli, make_file: MakeFile) -> None:
    for number in (1, 2):
        assert cli("push", make_file(number), "--version", str(number)).code == 0
    pinned = cli("pin", "1", "--owner", "eval", "--ttl", "3600", "--json")
    assert set(pinned.json) == VERSION_KEYS | {"run"}
    (pin,) = pinned.json["pins"]
    assert pin["owner"] == "eval"
    assert pin["expire_time"] > pinned.json["commit_time"]
    cli("delete", "1").failed(1, "[VERSION_PINNED]", "eval", "--remove")
    assert "pinned by eval" in cli("pin", "1", "--owner", "eval").out
    assert cli("pin", "1", "--remove", "--owner", "eval").out == "version 1: not pinned\n"
    deleted = cli("delete", "1", "--json")
    assert deleted.json == {"run": deleted.json["run"], "version": 1, "deleted": True}
    cli("delete", "1").failed(1, "[VERSION_RETIRED]", "weightsync versions")
    cli("delete", "2").failed(1, "[VERSION_IN_USE]")
    cli("pin", "1", "--remove", "--ttl", "1").failed(2, "--ttl", "--remove")


def test_health(cli: Cli, server: ServerProcess, client: SyncClient, run_id: str) -> None:
    answer = cli("health", "--json")
    assert answer.code == 0
    assert answer.json == {"server": server.address, "service": "", "status": "SERVING"}
    assert cli("health", "--service", "weightsync.v1.WeightService").out == "SERVING\n"
    client.register("explorer", name="explorer-0")
    behind = cli("health", "--service", f"runs/{run_id}/workers/explorer-0@3", "--json")
    behind.failed(1, "NOT_SERVING")
    assert behind.json["status"] == "NOT_SERVING"
    cli("health", "--service", "none").failed(1, "SERVICE_UNKNOWN")


def test_what_the_server_refuses(cli: Cli, make_file: MakeFile, tmp_path: Path) -> None:
    cli("status").failed(1, "[RUN_NOT_FOUND]", "--run")
    assert cli("push", make_file(), "--version", "5").code == 0
    assert cli("push", make_file(), "--version", "5").code == 0, "the same bytes are there already"
    cli("push", make_file(1), "--version", "5").failed(1, "[VERSION_EXISTS]", "higher")
    cli("push", make_file(1), "--version", "4").failed(1, "[VERSION_NOT_NEWER]", "higher")
    out = tmp_path / "out"
    cli("pull", "--out", out, "--version", "6").failed(1, "[VERSION_NOT_FOUND]", "versions")
    assert not out.exists()


def test_options_win_over_the_environment(server: ServerProcess, make_file: MakeFile) -> None:
    wrong = {"WEIGHTSYNC_SERVER": "127.0.0.1:9", "WEIGHTSYNC_RUN": "elsewhere"}
    options = ("--server", server.address, "--run", "by-option")
    pushed = Command("push", make_file(), "--version", "1", *options, "--json", env=wrong).end()
    assert pushed.json["run"] == "by-option"
    first, second = together(
        Command("versions", "--json", env={**wrong, "WEIGHTSYNC_SERVER": server.address}),
        Command("versions", "--json", "--server", server.address, "--run", "by-option"),
    )
    first.failed(1, "elsewhere", "[RUN_NOT_FOUND]")
    assert [version["version"] for version in second.json["versions"]] == [1]
    files = {"WEIGHTSYNC_CA_CERT": "/nonexistent/ca.pem"}
    Command("status", "--server", server.address, env=files).end().failed(
        1, "/nonexistent/ca.pem", "[LOCAL_FILE]"
    )


def test_a_version_without_bytes_says_where_it_is(
    cli: Cli, server: ServerProcess, run_id: str
) -> None:
    with SyncClient(server.address, run_id) as client:
        client.publish(3, checkpoint_path="/ckpt/global_step_3/actor")
    (found,) = cli("versions", "--json").json["versions"]
    assert (found["source"], found["reference"]) == ("checkpoint", "/ckpt/global_step_3/actor")
    assert "in checkpoint /ckpt/global_step_3/actor" in cli("versions").out
    assert "version 3 (in checkpoint /ckpt/global_step_3/actor, " in cli("status").out
    refused = cli("pull", "--out", "never.safetensors")
    assert refused.code == 1
    assert "version 3 has no bytes here" in refused.err
