"""`weightsync wait` and `watch`: what changes."""

from __future__ import annotations

from contextlib import aclosing

import click

from sync_client.aio import AsyncSyncClient
from sync_client.commands import output
from sync_client.commands.session import RETRY_SECONDS, VERSION, Failed, TimedOut, client_command
from sync_client.types import RunEvent, VersionSource, WaitOutcome, WaitResult

_SECONDS = click.FloatRange(min=0, max=86400 * 366)


@click.command()
@click.option("--after", type=VERSION, metavar="N", help="What you have. Default: nothing.")
@click.option(
    "--timeout", type=_SECONDS, metavar="SECONDS", help="How long to wait. Default: for ever."
)
@client_command
async def wait(
    client: AsyncSyncClient, as_json: bool, after: int | None, timeout: float | None
) -> None:
    """Wait until the newest version is not the one you have, and print its number.

    Exit 4 at the timeout; 1 if the trainer stopped, was lost, or said that there is nothing new.
    """
    result = await client.wait(after, timeout, retry_for=RETRY_SECONDS)
    if as_json:
        output.document({"run": client.run, **output.fields(result)})
    elif result.reached:
        click.echo(str(result.version))
    if not result.reached:
        text = f"{_why(client.run, result, after, timeout)} [{result.outcome}]"
        raise TimedOut(text) if result.outcome is WaitOutcome.TIMED_OUT else Failed(text)


@click.command()
@click.option(
    "--after-revision",
    type=VERSION,
    metavar="N",
    help="Go on after this revision. Default: begin with a snapshot.",
)
@client_command
async def watch(client: AsyncSyncClient, as_json: bool, after_revision: int | None) -> None:
    """Print every change of the run as it happens, until Ctrl-C. With --json, one object a line."""
    async with aclosing(client.watch(after_revision)) as events:
        async for event in events:
            if as_json:
                output.line(event)
            else:
                click.echo(f"{output.clock(event.time)}  rev {event.revision}  {_text(event)}")


def _why(run: str, result: WaitResult, after: int | None, timeout: float | None) -> str:
    what = "no version" if after is None else f"no version after {after}"
    because = {
        WaitOutcome.TIMED_OUT: f"within {timeout or 0:g} s",
        WaitOutcome.TRAINER_STOPPED: "will come: the trainer stopped",
        WaitOutcome.TRAINER_LOST: "will come: the trainer was lost",
        WaitOutcome.NOTHING_NEW: "for now: the trainer says that there is nothing new",
    }
    return f"{what} of run {run!r} {because[result.outcome]}"


def _text(event: RunEvent) -> str:
    if event.snapshot is not None:
        found = event.snapshot
        newest = "none" if found.latest_version is None else str(found.latest_version)
        return f"snapshot: {len(found.workers)} workers, newest version {newest}"
    if event.worker is not None:
        worker = event.worker
        applied = "" if worker.version is None else f", has version {worker.version}"
        return f"{worker.role.value} {worker.name}: {worker.state.value}{applied}"
    if event.version is not None:
        info = event.version
        what = f"version {info.version}: {output.bytes_of(info)}"
        if info.source is VersionSource.WEIGHTSYNC:
            what += f" in {info.tensor_count} tensors"
        return what if event.kind == "weight_version" else f"{event.kind.replace('_', ' ')} {what}"
    details = ", ".join(f"{key} {value}" for key, value in event.detail.items())
    return " ".join(part for part in (event.kind.replace("_", " "), event.name, details) if part)
