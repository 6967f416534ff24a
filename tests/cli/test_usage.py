"""Wrong usage, help, completion: one clear line, a suggestion, and nothing heavy imported."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sync_server.cli import program
from tests.cli.runner import SCRIPT, Command, together, weightsync
from tests.servers import ServerProcess

CLIENT_COMMANDS = ("status", "versions", "push", "pull", "wait", "watch", "health", "pin", "delete")
VARIABLES = ("SERVER", "RUN", "TOKEN", "CA_CERT", "CERT", "KEY")
HEAVY = {"grpc", "torch", "numpy", "rich", "pydantic", "yaml", "structlog", "safetensors", "google"}

# In the place of the console script: runs a command and then tells what was imported.
_IMPORTED = """
import sys
from sync_server.cli import main
try:
    main()
finally:
    print("imported", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def test_a_typo_gets_a_suggestion() -> None:
    lines = together(
        Command("serv"),
        Command("--hlp"),
        Command("serve", "--lsten", "x"),
        Command("pull", "--ouut", "x"),
        Command("config", "shwo"),
        Command("serve", "--log-level", "inf"),
        Command("xyzzy"),
    )
    for ended, suggestion in zip(
        lines, ("'serve'", "--help", "--listen", "--out", "'show'", "'info'", ""), strict=True
    ):
        ended.failed(2, suggestion, "--help'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", "file"),
        ("pull",),
        ("pull", "--out", "."),
        ("push", "file", "--version", "x"),
        ("push", "file", "--version", "-1"),
        ("pin", "9223372036854775808"),
        ("status", "--server", "nowhere"),
        ("status", "--server", "localhost:port"),
        ("status", "--server", "http://localhost:50051"),
        ("status", "--run", "a/b"),
        ("status", "--cert", "file"),
        ("status", "--key", "file"),
        ("status", "extra"),
        ("completion", "tcsh"),
    ],
    ids=" ".join,
)
def test_wrong_values(arguments: tuple[str, ...], server: ServerProcess) -> None:
    weightsync(*arguments, env={"WEIGHTSYNC_SERVER": server.address}).failed(2)


def test_a_local_file_that_is_no_good(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no safetensors file")
    env = {"WEIGHTSYNC_SERVER": server.address}
    missing, wrong, nowhere = together(
        Command("push", tmp_path / "nothing", "--version", "1", env=env),
        Command("push", tmp_path / "text", "--version", "1", env=env),
        Command("pull", "--out", tmp_path / "no" / "out", env=env),
    )
    missing.failed(1, "nothing: No such file", "[LOCAL_FILE]")
    wrong.failed(1, "no safetensors file", "[LOCAL_FILE]")
    nowhere.failed(1, "No such file", "[LOCAL_FILE]")


def test_a_server_out_of_reach(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and never says a word
        dead, mute = (f"127.0.0.1:{s.getsockname()[1]}" for s in (closed, silent))
        began = time.monotonic()
        commands = [
            Command("health", "--server", dead),
            Command("wait", "--after", "1", "--timeout", "60", "--server", dead),
            Command("push", file, "--version", "1", "--server", dead),
            Command("watch", "--server", mute),
            Command("health", "--json", "--server", mute),
        ]
        ended = together(*commands)
        assert time.monotonic() - began < 15, "alone each takes three seconds"
    for one in ended[:3]:
        one.failed(3, dead, "refused", "[SERVER_UNAVAILABLE]", "--server")
    for one in ended[3:]:
        one.failed(3, mute, "[SERVER_UNAVAILABLE]")


def test_help_names_every_option_and_variable() -> None:
    root = weightsync("--help")
    assert root.code == 0
    assert "4 timed out" in " ".join(root.out.split())
    for name in CLIENT_COMMANDS:
        assert f" {name} " in root.out
        shown = CliRunner().invoke(program, [name, "--help"])  # a process for each takes its time
        assert shown.exit_code == 0
        for variable in VARIABLES:
            assert f"--{variable.lower().replace('_', '-')} " in shown.output
            assert f"WEIGHTSYNC_{variable}]" in shown.output.replace(";", "]")
        assert "--json" in shown.output


def test_help_is_quick() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([SCRIPT, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serv"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not _imported(*arguments) & HEAVY


def test_push_needs_no_torch_and_serve_no_sdk(server: ServerProcess, tmp_path: Path) -> None:
    imported = _imported("push", str(tmp_path / "x"), "--version", "1", "--server", server.address)
    assert "sync_client" in imported
    assert not imported & {"torch", "rich", "pydantic", "structlog"}
    assert not _imported("serve", "--listen", "x") & {"torch", "sync_client"}


def _imported(*arguments: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *arguments], capture_output=True, text=True, check=False
    )
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("imported "))
    assert "sys" in line.split()
    return set(line.split()[1:])


def test_what_to_install_is_said() -> None:
    for missing, command, extra in (
        ("click", "--help", "[cli]"),
        ("pydantic_settings", "serve", "[server]"),
        ("yaml", "config", "[server]"),
    ):
        hidden = f"import sys; sys.modules[{missing!r}] = None"
        program = f"{hidden}; from sync_server.cli import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", program, command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("weightsync: ")
        assert ended.stderr.endswith(f"pip install 'weightsync{extra}'\n")


def test_both_ways_to_start_it_are_one() -> None:
    module = [sys.executable, "-m", "sync_server"]
    ended = subprocess.run([*module, "--help"], capture_output=True, text=True, check=True)
    assert ended.stdout == weightsync("--help").out


def _complete(words: str, position: int) -> list[str]:
    env = {
        "_WEIGHTSYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    ended = weightsync(env=env)
    assert ended.err == ""
    return [line.partition(",")[2] for line in ended.out.splitlines()]


def test_completion_of_words() -> None:
    assert _complete("weightsync pu", 1) == ["push", "pull"]
    assert _complete("weightsync pull --na", 2) == ["--name"]
    assert _complete("weightsync serve --state-store s", 3) == ["sqlite"]
    assert _complete("weightsync config ", 2) == ["check", "init", "show"]


def test_completion_scripts() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = weightsync("completion", shell)
        assert script.code == 0
        assert f"{shell}_complete" in script.out
        assert f"weightsync completion {shell}" in script.out, "it says what to do with it"
    assert weightsync("completion", "zsh").out.startswith("#compdef weightsync")
    loaded = 'eval "$("$0" completion bash)" && complete -p weightsync'
    bash = subprocess.run(
        ["bash", "-c", loaded, SCRIPT], capture_output=True, text=True, check=True
    )
    assert "_weightsync_completion weightsync" in bash.stdout
