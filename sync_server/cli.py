"""The root of the command line: which command lives where.

Commands are loaded when they are used, so `weightsync serve` never imports the SDK and
`weightsync push` never imports the server's machinery. It is the one place that names both sides,
and it imports neither.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module

try:
    import click
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
    "delete": ("sync_client.commands.change:delete", "Delete a version."),
    "check": ("sync_server.commands.check:check", "Verify the digest of every stored blob."),
    "config": ("sync_server.commands.config:config", "Make, check or show a configuration."),
    "demo": ("sync_client.demo.command:demo", "Train a small model with real weights on the move."),
}


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in their order."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, imported."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of `--help`, without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weightsync")
def main() -> None:
    """Holds the newest weights, wakes who waits for them, and hands them over.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server out of reach, 4 timed out waiting.
    """
