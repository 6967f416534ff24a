"""`weightsync serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sync_server.config import ConfigError, load
from sync_server.loops import run_event_loop


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where to serve gRPC; port 0 picks a free one.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Directory of the state.")
@click.option("--blob-dir", type=click.Path(path_type=Path), help="Directory of the weights.")
@click.option(
    "--state-store", type=click.Choice(["sqlite", "memory"]), help="memory forgets at the end."
)
@click.option("--keep-versions", type=int, metavar="N", help="How many versions of a run to keep.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="YAML file."
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the addresses and the pid there, as JSON, once it serves.",
)
@click.option(
    "--insecure", is_flag=True, default=None, help="Allow more than loopback without TLS."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log."
)
@click.option("--log-format", type=click.Choice(["console", "json"]), help="How to log.")
def serve(config_file: Path | None, ready_file: Path | None, **arguments: Any) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    from sync_server.malloc import keep_big_blocks

    keep_big_blocks()
    try:
        settings = load(config_file, arguments)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from sync_server import logs, server

    logs.configure(settings.log_level, settings.log_format)
    try:
        run_event_loop(server.serve(settings, ready_file))
    except server.StartError as error:
        raise click.ClickException(str(error)) from error
