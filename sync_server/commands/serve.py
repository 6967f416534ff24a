"""`weightsync serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sync_server.commands.settings import settings_options
from sync_server.config import ConfigError, load
from sync_server.loops import run_event_loop


@click.command()
@settings_options()
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the addresses and the pid there, as JSON, once it serves.",
)
@click.option(
    "--while-locked",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="End once no process holds a lock (flock) on this file: a server for one job.",
)
def serve(
    config_file: Path | None,
    ready_file: Path | None,
    while_locked: Path | None,
    **arguments: Any,
) -> None:
    """Run the server until SIGTERM or Ctrl-C, and then end with exit code 0.

    A setting is taken from the first of these that names it: the command line, the environment,
    the file of --config, the default. 'weightsync config show' tells which.
    """
    from sync_server.malloc import keep_big_blocks

    keep_big_blocks()
    try:
        settings = load(config_file, arguments)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from sync_server import listener, logs, process

    logs.configure(settings.log_level, settings.log_format)
    try:
        run_event_loop(process.serve(settings, ready_file, while_locked))
    except listener.StartError as error:
        raise click.ClickException(str(error)) from error
