"""What every command of the client side shares: its options, its connection, and how it fails."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from sync_client import errors
from sync_client.aio import AsyncSyncClient
from sync_client.connection import DEFAULT_SERVER, Connection
from sync_client.health import check_health
from weightsync import names

RETRY_SECONDS = 2.0
"""For how long a command goes on trying. Longer than a restart takes, short enough to wait for."""

_LAST_TRY_SECONDS = 0.5
_GRPC_NAMES = ("unix:", "dns:", "ipv4:", "ipv6:")

VERSION = click.IntRange(0, names.MAX_VERSION_NUMBER)

# What to do about it, where the message itself does not say.
_HINTS = {
    "SERVER_UNAVAILABLE": "is it running, and is --server right?",
    "RUN_NOT_FOUND": "is --run right?",
    "VERSION_NOT_FOUND": "'weightsync versions' lists what there is",
    "VERSION_RETIRED": "'weightsync versions' lists what there is",
    "VERSION_EXISTS": "use a higher number",
    "VERSION_NOT_NEWER": "use a higher number",
    "VERSION_PINNED": "'weightsync pin --remove --owner ...' lets it go",
    "VERSION_IN_USE": "push a newer one first",
    "TRAINER_ACTIVE": "stop that trainer, or wait for its lease to run out",
    "UPLOAD_IN_PROGRESS": "try again when that has ended",
    "STORAGE_FULL": "delete versions, or make room in the server's blob directory",
    "BLOB_DAMAGED": "run 'weightsync check' where the server's directories are",
    "DIGEST_MISMATCH": "try again",
    "UNAUTHENTICATED": "give --token or WEIGHTSYNC_TOKEN",
}


class Failed(click.ClickException):
    """One line on standard error, and exit 1."""


class WrongUsage(click.ClickException):
    """One line on standard error, and exit 2: what was typed can't be right."""

    exit_code = 2


class OutOfReach(click.ClickException):
    """One line on standard error, and exit 3: the server does not answer."""

    exit_code = 3


class TimedOut(click.ClickException):
    """One line on standard error, and exit 4: what was waited for did not come."""

    exit_code = 4


def explain(error: errors.SyncError) -> click.ClickException:
    """The line for an error of the SDK: what happened, the reason code, and what to do."""
    reason = error.metadata.get("reason", error.reason)
    text = f"{error.message.rstrip('.')} [{reason}]"
    if reason in _HINTS:
        text += f" - {_HINTS[reason]}"
    if isinstance(error, errors.ServerUnavailable | errors.DeadlineExceeded):
        return OutOfReach(text)
    # Its other kinds are about what was sent, not about what was typed.
    if type(error) in (errors.InvalidArgument, errors.InvalidName, errors.InvalidDuration):
        return WrongUsage(text)
    return Failed(text)


def _check_server(ctx: click.Context, param: click.Parameter, value: str) -> str:
    host, _, port = value.rpartition(":")
    named = value.startswith(_GRPC_NAMES)
    if not named and not (host and "/" not in host and port.isdecimal() and int(port) < 1 << 16):
        raise click.BadParameter(f"{value!r} is no HOST:PORT", ctx, param)
    return value


_FILE = click.Path(dir_okay=False, path_type=Path)


def _option(name: str, help_text: str, **attributes: Any) -> Callable[[Any], Any]:
    variable = "WEIGHTSYNC_" + name.lstrip("-").replace("-", "_").upper()
    return click.option(name, help=help_text, envvar=variable, show_envvar=True, **attributes)


_SERVER_OPTIONS = (
    _option(
        "--server",
        "Where the server is.",
        metavar="HOST:PORT",
        default=DEFAULT_SERVER,
        show_default=True,
        callback=_check_server,
    ),
    _option("--run", "The run.", metavar="RUN", default="default", show_default=True),
    _option("--token", "What lets you in; better in the environment.", metavar="TOKEN"),
    _option("--ca-cert", "Who vouches for the server (PEM).", metavar="FILE", type=_FILE),
    _option("--cert", "Your certificate, for mutual TLS (PEM).", metavar="FILE", type=_FILE),
    _option("--key", "The key of --cert (PEM).", metavar="FILE", type=_FILE),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def client_command(work: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes `async work(client, as_json=..., **arguments)` the callback of a click command.

    It gets a connected client. A SyncError that it raises becomes one line and an exit code.
    """

    @functools.wraps(work)
    def callback(as_json: bool, **arguments: Any) -> None:
        # The SDK's warnings are for programs that live on; here the last line says it all.
        logging.getLogger("weightsync").addHandler(logging.NullHandler())
        logging.getLogger("weightsync").propagate = False
        signal.signal(signal.SIGTERM, _terminated)
        target = {key: arguments.pop(key) for key in ("token", "ca_cert", "cert", "key")}
        server, run = arguments.pop("server"), arguments.pop("run")

        async def session() -> None:
            async with AsyncSyncClient(server, run, retry_for=RETRY_SECONDS, **target) as client:
                await _connect(client.connection)
                await work(client, as_json=as_json, **arguments)

        try:
            asyncio.run(session())
        except errors.SyncError as error:
            raise explain(error) from error

    command: Callable[..., None] = callback
    for option in reversed(_SERVER_OPTIONS):
        command = option(command)
    return command


def _terminated(number: int, frame: object) -> NoReturn:
    """Ends as Ctrl-C does: half a file that was being pulled is removed."""
    raise SystemExit(128 + number)


async def _connect(connection: Connection) -> None:
    """Waits for the channel. Raises ServerUnavailable, with gRPC's own words where it has some.

    Before anything else: a dead server is noticed before a big file was read, and a black hole,
    where a call would sit out gRPC's 20 seconds, costs no more than a closed port.
    """
    try:
        await asyncio.wait_for(connection.channel.channel_ready(), RETRY_SECONDS)
        return
    except asyncio.TimeoutError:
        pass
    try:
        connection.retry_for = 0.0
        await check_health(connection, timeout=_LAST_TRY_SECONDS)
    except errors.DeadlineExceeded:
        raise errors.ServerUnavailable(
            f"no weightsync server answers at {connection.target.server}: no connection within "
            f"{RETRY_SECONDS + _LAST_TRY_SECONDS:g} s"
        ) from None
    finally:
        connection.retry_for = RETRY_SECONDS
