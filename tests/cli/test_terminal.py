"""What only shows on a terminal, in a pipe that closes, on a full disk, and with Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from sync_client import SyncClient
from tests.cli.conftest import MakeFile
from tests.cli.rooms import small
from tests.cli.runner import Command
from tests.servers import ServerProcess
from tests.until import until


def _on_terminal(*arguments: str | Path) -> tuple[int, str, str]:
    """Runs a command whose standard error is a terminal: its code, output, and what that showed."""
    main, other = pty.openpty()
    command = Command(*arguments, stderr=other)
    os.close(other)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    ended = command.end()
    return ended.code, ended.out, shown.decode()


def test_progress_shows_on_a_terminal_alone(
    server: ServerProcess, run_id: str, make_file: MakeFile, tmp_path: Path
) -> None:
    file = make_file(rows=4000)
    target = ("--server", server.address, "--run", run_id)
    code, out, shown = _on_terminal("push", file, "--version", "1", *target)
    assert code == 0, shown
    assert f"push {file.name}" in shown
    assert "16.0" in shown, "megabytes in all"
    assert out.startswith("pushed version 1: 16 MB in ")
    assert _on_terminal("pull", "--out", tmp_path / "out", *target)[2].count("pull out") > 0
    quiet = Command("pull", "--out", tmp_path / "out", *target).end()
    assert quiet.err == ""
    assert (tmp_path / "out").read_bytes() == file.read_bytes()


def test_ctrl_c_ends_quietly(
    server: ServerProcess, client: SyncClient, make_file: MakeFile
) -> None:
    client.push_file(make_file(), 1)
    target = ("--server", server.address, "--run", client.run)
    waiting, watching = Command("wait", "--after", "1", *target), Command("watch", *target)
    watching.line()
    until(lambda: client.status().waiters)
    for command in (waiting, watching):
        command.interrupt()
        ended = command.end()
        assert (ended.code, ended.out, ended.err) == (130, "", "")
    until(lambda: not client.status().waiters)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_ended_leaves_nothing(
    server: ServerProcess, client: SyncClient, tmp_path: Path, number: signal.Signals
) -> None:
    save_file({"weight": numpy.zeros(128 << 20, numpy.uint8)}, tmp_path / "big")
    client.push_file(tmp_path / "big", 1)
    out = tmp_path / "out"
    pulling = Command("pull", "--out", out, "--server", server.address, "--run", client.run)
    until(lambda: list(tmp_path.glob(".out*")))
    pulling.process.send_signal(number)
    ended = pulling.end()
    assert (ended.code, ended.out, ended.err) == (128 + number, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_a_reader_that_goes_away(
    server: ServerProcess, client: SyncClient, make_file: MakeFile
) -> None:
    client.push_file(make_file(1), 1)
    target = ("--server", server.address, "--run", client.run)
    watching = Command("watch", *target)
    watching.line()
    assert watching.process.stdout is not None
    watching.process.stdout.close()
    client.push_file(make_file(2), 2)
    assert watching.process.wait(30) == 141
    assert watching.process.stderr is not None
    assert watching.process.stderr.read() == ""
    watching.process.stderr.close()

    read, write = os.pipe()
    os.close(read)
    for arguments in (("status", *target), ("--help",), ("serve", "--help")):
        command = Command(*arguments, stdout=write)
        ended = command.end()
        assert (ended.code, ended.err) == (141, ""), arguments
    os.close(write)


def test_a_full_disk(
    server: ServerProcess, client: SyncClient, make_file: MakeFile, tmp_path: Path
) -> None:
    client.push_file(make_file(rows=1000), 1)  # 4 MB
    target = ("--server", server.address, "--run", client.run)
    limited = ("bash", "-c", 'ulimit -f 1000 && exec "$@"', "bash")
    out = tmp_path / "out"
    Command("pull", "--out", out, *target, prefix=limited).end().failed(
        1, str(out), "File too large", "[LOCAL_FILE]"
    )
    assert not list(tmp_path.glob("*out*")), "nothing half is left"
    room = tmp_path / "room"
    room.mkdir()
    prefix = small(room, "1m")
    Command("pull", "--out", room / "out", *target, prefix=prefix).end().failed(
        1, str(room), "No space left", "[LOCAL_FILE]"
    )
