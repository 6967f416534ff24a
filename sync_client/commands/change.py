"""`weightsync pin`, `rollback` and `delete`: which versions are kept, and which one is served."""

from __future__ import annotations

import click

from sync_client.aio import AsyncSyncClient
from sync_client.commands import output
from sync_client.commands.session import VERSION, client_command
from sync_client.types import VersionInfo


@click.command()
@click.argument("version", type=VERSION, metavar="N")
@click.option("--owner", default="client", show_default=True, help="In whose name.")
@click.option(
    "--ttl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For how long. Default: until --remove.",
)
@click.option("--remove", is_flag=True, help="Take the owner's pin back.")
@client_command
async def pin(
    client: AsyncSyncClient,
    as_json: bool,
    version: int,
    owner: str,
    ttl: float | None,
    remove: bool,
) -> None:
    """Keep version N from being retired, or (--remove) let it go.

    A version that only the pin kept is retired at once when the pin is taken back.
    """
    if remove and ttl is not None:
        raise click.UsageError("--ttl says how long to keep it, --remove lets it go: give one")
    if remove:
        info = await client.unpin(version, owner)
    else:
        info = await client.pin(version, owner, ttl)
    if as_json:
        output.document({"run": client.run, **output.fields(info)})
    else:
        click.echo(f"version {info.version}: {_pins(info)}")


@click.command()
@click.argument("version", type=VERSION, metavar="N")
@client_command
async def delete(client: AsyncSyncClient, as_json: bool, version: int) -> None:
    """Delete version N. The newest one, and one that is pinned, are refused."""
    await client.delete(version)
    if as_json:
        output.document({"run": client.run, "version": version, "deleted": True})
    else:
        click.echo(f"deleted version {version} of run {client.run}")


@click.command()
@click.argument("version", type=VERSION, metavar="N")
@client_command
async def rollback(client: AsyncSyncClient, as_json: bool, version: int) -> None:
    """Give explorers version N again, as if it were new.

    Later versions are kept until the next push: roll back to one of them to go forward again.
    """
    info = await client.rollback(version)
    if as_json:
        output.document({"run": client.run, **output.fields(info)})
    else:
        click.echo(f"run {client.run} is at version {info.version} again")


def _pins(info: VersionInfo) -> str:
    if not info.pins:
        return "not pinned"
    return "pinned by " + ", ".join(
        item.owner
        if item.expire_time is None
        else f"{item.owner} (until {output.clock(item.expire_time)})"
        for item in info.pins
    )
