"""`weightsync demo`."""

from __future__ import annotations

import logging
import secrets
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from sync_client import SyncClient, errors
from sync_client.commands import output
from sync_client.commands.session import RETRY_SECONDS, Failed, WrongUsage, explain
from sync_client.demo.children import ChildDied, clean_environment
from sync_client.demo.play import Settings, play
from sync_client.demo.signals import leave_on_signals
from sync_client.demo.story import Story, Summary
from weightsync import names

PICTURE = "weightsync-demo.png"
_NEEDED = ("transformers", "matplotlib", "rich", "sync_server", "pydantic_settings")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--steps",
    type=click.IntRange(1, 100_000),
    default=150,
    show_default=True,
    metavar="N",
    help="How many steps to train.",
)
@click.option(
    "--explorers",
    type=click.IntRange(1, 16),
    default=2,
    show_default=True,
    metavar="N",
    help="How many explorers.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help=f"Where to put {PICTURE}. Default: here.",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, metavar="N", help="Of chance.")
@click.option(
    "--server",
    metavar="HOST:PORT",
    envvar="WEIGHTSYNC_SERVER",
    show_envvar=True,
    help="Use this running server. Default: start one.",
)
@click.option("--run", metavar="RUN", help="A run that does not exist yet. Default: demo-XXXXXX.")
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="WEIGHTSYNC_TOKEN",
    show_envvar=True,
    help="What lets you in at --server.",
)
@click.option(
    "--ca-cert",
    metavar="FILE",
    envvar="WEIGHTSYNC_CA_CERT",
    show_envvar=True,
    type=_FILE,
    help="Who vouches for --server (PEM).",
)
@click.option(
    "--cert",
    metavar="FILE",
    envvar="WEIGHTSYNC_CERT",
    show_envvar=True,
    type=_FILE,
    help="Your certificate, for mutual TLS (PEM).",
)
@click.option(
    "--key",
    metavar="FILE",
    envvar="WEIGHTSYNC_KEY",
    show_envvar=True,
    type=_FILE,
    help="The key of --cert (PEM).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--frozen", is_flag=True, hidden=True, help="The explorers never pull.")
def demo(
    steps: int,
    explorers: int,
    out: Path,
    seed: int,
    server: str | None,
    run: str | None,
    token: str | None,
    ca_cert: Path | None,
    cert: Path | None,
    key: Path | None,
    as_json: bool,
    frozen: bool,
) -> None:
    """Train a small model with real weights on the move.

    One server, one trainer and two explorers, each a process of its own, teach a small Llama model
    the alphabet by reinforcement learning. The explorers act with the weights that they pulled:
    the reward rises only if the weights really arrive. Ends with a picture of reward and version
    over time.
    """
    # The SDK's warnings are for programs that live on; here the last line says it all.
    logging.getLogger("weightsync").addHandler(logging.NullHandler())
    logging.getLogger("weightsync").propagate = False
    _check_extra()
    _check_directory(out)
    run = run or f"demo-{secrets.token_hex(3)}"
    _check_run(run)
    credentials: dict[str, str | None] = {}
    if server is not None:
        files = {"ca_cert": ca_cert, "cert": cert, "key": key}
        credentials = {k: None if v is None else str(v) for k, v in files.items()}
        credentials["token"] = token
        _check_server(server, run, credentials)
    environment = clean_environment(**credentials)
    settings = Settings(run, steps, explorers, seed, frozen, server, environment)
    leave_on_signals()
    from sync_client.demo.table import Show

    with Show(steps, err=as_json) as show:
        if server is not None:
            click.echo(f"using the server at {server}, run {run}", err=as_json)
        try:
            story = play(settings, show)
        except ChildDied as error:
            for line in error.last_lines:
                click.echo(f"  | {line}", err=True)
            raise Failed(str(error)) from error
        show.end(story)
    summary = story.summary()
    picture = out / PICTURE
    _draw(story, summary, picture)
    if as_json:
        output.document(
            {"run": run, "frozen": frozen, **output.fields(summary), "picture": picture}
        )
    else:
        click.echo(_sentence(summary, picture))
    if summary.same_digest != summary.pulls:
        raise Failed("some explorer's tensors were not, byte for byte, the version that it pulled")


def _check_extra() -> None:
    missing = [module for module in _NEEDED if find_spec(module) is None]
    if missing:
        raise Failed(
            f"the demo needs {' and '.join(missing)}, not installed here: "
            "pip install 'weightsync[demo]'"
        )


def _check_directory(out: Path) -> None:
    """Now, and not when everything is over."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise Failed(f"can't write to {out}: {error.strerror}") from error


def _check_run(run: str) -> None:
    try:
        names.check_run_id(run)
    except names.InvalidName as error:
        raise WrongUsage(str(error)) from error


def _check_server(server: str, run: str, credentials: dict[str, str | None]) -> None:
    try:
        with SyncClient(server, run=run, retry_for=RETRY_SECONDS, **credentials) as client:
            client.status()
    except errors.RunNotFound:
        return
    except errors.SyncError as error:
        raise explain(error) from error
    raise WrongUsage(f"there is a run {run!r} already; the demo wants one of its own")


def _draw(story: Story, summary: Summary, path: Path) -> None:
    from sync_client.demo.picture import draw

    try:
        draw(story, summary, path)
    except OSError as error:
        raise Failed(f"can't write {path}: {error.strerror}") from error


def _sentence(summary: Summary, picture: Path) -> str:
    pulls = ", ".join(f"{explorer.name} {explorer.pulls}" for explorer in summary.explorers)
    verified = sum(explorer.verified for explorer in summary.explorers)
    # The server compares with what it still has; the explorer itself has compared them all.
    late = "" if verified == summary.same_digest else " (the others had been retired by then)"
    return (
        f"reward {summary.start_reward:.2f} -> {summary.final_reward:.2f} "
        f"in {summary.steps} steps and {summary.seconds:.1f} s; "
        f"{summary.versions_pushed} versions of {output.size(summary.version_size)} pushed; "
        f"pulls: {pulls}; digests verified by the server: {verified} of {summary.pulls}{late}; "
        f"picture: {picture}"
    )
