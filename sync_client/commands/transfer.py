"""`weightsync push` and `pull`: safetensors files in and out. No torch is needed."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sync_client.aio import AsyncSyncClient
from sync_client.commands import output
from sync_client.commands.session import VERSION, client_command
from sync_client.types import VersionInfo

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--version", type=VERSION, required=True, metavar="N", help="Its number: the training step."
)
@client_command
async def push(client: AsyncSyncClient, as_json: bool, file: Path, version: int) -> None:
    """Push the safetensors FILE as version N.

    Refused while a live trainer holds the run. The same bytes under the same number are no error.
    """
    started = time.monotonic()
    with output.progress_bar(f"push {file.name}") as progress:
        info = await client.push_file(file, version, progress=progress)
    _report("pushed", client.run, info, file, started, as_json)


@click.command()
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="The file to write.")
@click.option("--version", type=VERSION, metavar="N", help="Which one. Default: the newest.")
@click.option(
    "--name", "names", multiple=True, metavar="TENSOR", help="Only this tensor; can be repeated."
)
@client_command
async def pull(
    client: AsyncSyncClient, as_json: bool, out: Path, version: int | None, names: tuple[str, ...]
) -> None:
    """Pull a version into a safetensors file, which appears whole and verified or not at all."""
    started = time.monotonic()
    with output.progress_bar(f"pull {out.name}") as progress:
        info = await client.pull_file(out, version, names or None, progress=progress)
    _report("pulled", client.run, info, out, started, as_json)


def _report(
    done: str, run: str, info: VersionInfo, file: Path, started: float, as_json: bool
) -> None:
    seconds = time.monotonic() - started
    moved = file.stat().st_size  # of a few tensors only a part of the version
    rate = output.rate(moved, seconds)
    if as_json:
        measured = {"file": file, "bytes": moved, "seconds": seconds, "mb_per_second": rate}
        output.document({"run": run, **output.fields(info), **measured})
    else:
        click.echo(
            f"{done} version {info.version}: {output.size(moved)} in {seconds:.2f} s "
            f"({rate:.0f} MB/s), {info.digest}"
        )
