"""`weightsync serve`: what keeps it from starting, each in one line, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.cli.rooms import read_only
from tests.cli.runner import Command, together
from tests.servers import ServerProcess
from tests.until import until


def test_a_busy_port(server: ServerProcess, tmp_path: Path) -> None:
    options = ("--listen", server.address, "--data-dir", tmp_path)
    Command("serve", *options).end().failed(1, server.address, "in use")


def test_directories_that_can_not_be_used(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    listen = ("--listen", "127.0.0.1:0", "--state-store", "memory")
    own = ("--data-dir", tmp_path / "data")
    not_a_directory, used, ready = together(
        Command("serve", *listen, *own, "--blob-dir", tmp_path / "file"),
        Command("serve", *listen, *own, "--blob-dir", server.blob_dir),
        Command("serve", *listen, *own, "--ready-file", tmp_path / "no" / "ready"),
    )
    not_a_directory.failed(1, str(tmp_path / "file"))
    used.failed(1, "another server", str(server.blob_dir))
    assert ready.code == 1
    assert "ready file" in ready.err.splitlines()[-1]
    assert "Traceback" not in ready.err


def test_a_read_only_directory(tmp_path: Path) -> None:
    options = ("--listen", "127.0.0.1:0", "--data-dir", tmp_path)
    prefix = read_only(tmp_path)
    Command("serve", *options, prefix=prefix).end().failed(1, str(tmp_path), "Read-only")
    blobs = tmp_path.parent / "blobs"
    ended = Command("serve", *options, "--blob-dir", blobs, prefix=prefix).end()
    ended.failed(1, str(tmp_path))


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "weightsync.yaml"
    file.write_text("keep_version: 3\n")
    bad_file, exposed, bad_env = together(
        Command("serve", "--config", file),
        Command("serve", "--listen", "0.0.0.0:0"),
        Command("serve", env={"WEIGHTSYNC_LISTEN": "nowhere"}),
    )
    bad_file.failed(2, str(file), "'keep_version'", "'keep_versions'")
    exposed.failed(2, "0.0.0.0:0", "--insecure")
    bad_env.failed(2, "environment WEIGHTSYNC_LISTEN", "'nowhere'", "HOST:PORT")


def test_it_ends_with_0_on_both_signals(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        directory = tmp_path / number.name
        ready = directory / "ready"
        directory.mkdir()
        options = ("--listen", "127.0.0.1:0", "--data-dir", directory, "--ready-file", ready)
        command = Command("serve", *options, "--log-format", "json")
        until(ready.exists)
        addresses = json.loads(ready.read_text())
        assert set(addresses) == {"grpc", "http", "metrics", "pid"}
        assert addresses["pid"] == command.process.pid
        command.process.send_signal(number)
        ended = command.end()
        assert ended.code == 0, ended
        events = [json.loads(line)["event"] for line in ended.err.splitlines()]
        assert events == ["serving", "stopping", "stopped"]
