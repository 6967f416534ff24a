"""`weightsync status`, `versions` and `health`: what there is."""

from __future__ import annotations

import click

from sync_client.aio import AsyncSyncClient
from sync_client.commands import output
from sync_client.commands.session import Failed, client_command
from sync_client.health import Health, check_health
from sync_client.types import RunStatus, VersionInfo, VersionSource

_SHORT_DIGEST = len("xxh3-128:") + 12


@click.command()
@client_command
async def status(client: AsyncSyncClient, as_json: bool) -> None:
    """Show the run: its workers, who waits for what, and the newest version."""
    found = await client.status()
    if as_json:
        output.document(found)
        return
    click.echo(_summary(found))
    if found.workers:
        waiting = {waiter.worker: waiter for waiter in found.waiters if waiter.worker}
        rows = []
        for worker in found.workers:
            waiter = waiting.get(worker.name)
            applied = "-" if worker.version is None else str(worker.version)
            if worker.version is not None and not worker.verified:
                applied += f" ({worker.problem or 'not verified'})"
            rows.append(
                (
                    worker.name,
                    worker.role.value,
                    worker.state.value,
                    output.age(worker.state_change_time),
                    str(worker.generation),
                    applied,
                    "" if waiter is None else f"{waiter.waiting_for}, {output.age(waiter.since)}",
                )
            )
        output.table(
            ("WORKER", "ROLE", "STATE", "SINCE", "GENERATION", "APPLIED", "WAITS FOR"), rows
        )
    unleased = sum(not waiter.worker for waiter in found.waiters)
    if unleased:
        click.echo(f"{unleased} without a lease wait for a version")


@click.command()
@client_command
async def versions(client: AsyncSyncClient, as_json: bool) -> None:
    """List the versions of the run that can be pulled, the newest first."""
    found = await client.versions()
    if as_json:
        output.document({"run": client.run, "versions": found})
    elif not found:
        click.echo(f"run {client.run} has no version")
    else:
        output.table(
            ("VERSION", "SIZE", "TENSORS", "AGE", "PUSHED BY", "PINNED BY", "DIGEST"),
            [_row(info) for info in found],
        )


@click.command()
@click.option(
    "--service",
    default="",
    metavar="NAME",
    help="One service, such as weightsync.v1.WeightService. Default: the whole server.",
)
@client_command
async def health(client: AsyncSyncClient, as_json: bool, service: str) -> None:
    """Ask whether the server serves: exit 0 if it does, 1 if not, 3 if it is out of reach."""
    found = await check_health(client.connection, service)
    server = client.connection.target.server
    if as_json:
        output.document({"server": server, "service": service, "status": found})
    elif found is Health.SERVING:
        click.echo(found.value)
    if found is not Health.SERVING:
        what = f"service {service!r} of the server at {server}" if service else f"server {server}"
        raise Failed(f"{what} answers {found}")


def _summary(found: RunStatus) -> str:
    counts = ", ".join(
        f"{count} {state.value}" for state, count in found.explorer_state_counts.items() if count
    )
    newest = "no version yet"
    if found.latest is not None:
        info = found.latest
        newest = (
            f"version {info.version} ({output.bytes_of(info)}, {output.age(info.commit_time)} old)"
        )
    trainer = "none" if found.trainer_state is None else found.trainer_state.value
    return (
        f"run {found.run}, revision {found.revision}: {newest}\n"
        f"trainer: {trainer}; explorers: {counts or 'none'}"
    )


def _row(info: VersionInfo) -> tuple[str, ...]:
    return (
        str(info.version),
        output.bytes_of(info),
        str(info.tensor_count) if info.source is VersionSource.WEIGHTSYNC else "-",
        output.age(info.commit_time),
        info.pushed_by or "-",
        ", ".join(pin.owner for pin in info.pins) or "-",
        info.digest[:_SHORT_DIGEST],
    )
