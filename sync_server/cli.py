"""The root of the command line: which command lives where, and how a command ends.

Commands are loaded when they are used, so `weightsync serve` never imports the SDK and
`weightsync push` never imports the server's machinery. It is the one place that names both sides,
and it imports neither.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

try:
    import click
    from click.shell_completion import CompletionItem
except ModuleNotFoundError:
    sys.exit("weightsync: the command line needs: pip install 'weightsync[cli]'")

# name: (module:object, one line of help), in the order in which they are shown.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("sync_server.commands.serve:serve", "Run the server."),
    "status": ("sync_client.commands.show:status", "Show the run: who is there and what is new."),
    "versions": ("sync_client.commands.show:versions", "List the weight versions of the run."),
    "push": ("sync_client.commands.transfer:push", "Push a safetensors file as a version."),
    "pull": ("sync_client.commands.transfer:pull", "Pull a version into a safetensors file."),
    "wait": ("sync_client.commands.waits:wait", "Wait for a newer version."),
    "watch": ("sync_client.commands.waits:watch", "Print every change of the run as it happens."),
    "health": ("sync_client.commands.show:health", "Ask whether the server serves."),
    "pin": ("sync_client.commands.change:pin", "Keep a version from being retired, or let it go."),
    "rollback": (
        "sync_client.commands.change:rollback",
        "Give explorers an earlier version again.",
    ),
    "delete": ("sync_client.commands.change:delete", "Delete a version."),
    "check": ("sync_server.commands.check:check", "Verify the digest of every stored blob."),
    "config": ("sync_server.commands.config:config", "Make, check or show a configuration."),
    "demo": ("sync_client.demo.command:demo", "Train a small model with real weights on the move."),
    "completion": ("sync_server.commands.completion:completion", "Print a completion script."),
}

PROGRAM = "weightsync"
INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of any program whose reader went away

# The packages of ours, and the extra that brings what they import.
_EXTRAS = {"sync_server": "server", "sync_client.demo": "demo", "sync_client": "cli"}
_NO_ARGUMENTS: type[click.UsageError] | tuple[()] = getattr(
    click.exceptions, "NoArgsIsHelpError", ()
)


class SuggestingGroup(click.Group):
    """A group that suggests a command for a name that is none."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but for the suggestion."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """A group that imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in their order."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, imported. Fails with what to install where that is missing."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if str(error.name).startswith(("sync_", "weightsync")):
                raise  # a fault of ours
            extra = next(name for prefix, name in _EXTRAS.items() if module.startswith(prefix))
            raise click.ClickException(
                f"'{PROGRAM} {cmd_name}' needs the module {error.name}, which is not installed: "
                f"pip install 'weightsync[{extra}]'"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Also prints `--help`, to a reader that may have gone away."""
        with _quiet_end(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command."""
        with _quiet_end(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of `--help`, without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a name can be completed to, without importing any of them."""
        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weightsync")
def program() -> None:
    """Holds the newest weights, wakes who waits for them, and hands them over.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server out of reach, 4 timed out waiting,
    130 interrupted.
    """


def main() -> NoReturn:
    """Runs the command line and exits. What fails says so in one line on standard error."""
    # What goes wrong is said in our words; gRPC's C core would write its own lines in between.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A worker's name may have characters that the terminal's encoding has not.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    try:
        result = program.main(prog_name=PROGRAM, standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        if isinstance(error, _NO_ARGUMENTS):
            error.show()
        else:
            click.echo(f"{PROGRAM}: {_one_line(error)}", err=True)
        return error.exit_code
    return result if isinstance(result, int) else 0


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text += f" (see '{error.ctx.command_path} --help')"
    return text


@contextlib.contextmanager
def _quiet_end(ctx: click.Context) -> Iterator[None]:
    """Ctrl-C, and a reader that went away (`| head`), end a command without a word."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        ctx.exit(INTERRUPTED)
    except BrokenPipeError:
        # What is still buffered must not fail at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(BROKEN_PIPE)
