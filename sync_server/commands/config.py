"""`weightsync config init|check|show`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click
import yaml

from sync_server.cli import SuggestingGroup
from sync_server.commands.settings import allowed, settings_options
from sync_server.config import (
    ENV_PREFIX,
    ConfigError,
    ServerSettings,
    load,
    load_file_alone,
    sources,
)

_DEFAULT_FILE = Path("weightsync.yaml")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_COMMENT_COLUMNS = 90

_HEAD = f"""\
# Settings of `weightsync serve --config FILE`. Each can also be given on the command line
# (--data-dir) and in the environment ({ENV_PREFIX}DATA_DIR); those win over this file.
# These are the defaults: leave out what you don't want to change.
"""


@click.group(cls=SuggestingGroup)
def config() -> None:
    """Make, check or show a configuration of the server."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=_DEFAULT_FILE)
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@_JSON
def init(file: Path, force: bool, as_json: bool) -> None:
    """Write FILE (default: weightsync.yaml) with all settings, explained, at their defaults."""
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(template())
    except FileExistsError as error:
        raise click.ClickException(f"{file} exists; --force writes over it") from error
    except OSError as error:
        raise click.ClickException(f"can't write {file}: {error.strerror}") from error
    if as_json:
        _print_json({"file": str(file), "settings": list(ServerSettings.model_fields)})
    else:
        click.echo(f"wrote {file}; use it with: weightsync serve --config {file}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@_JSON
def check(file: Path, as_json: bool) -> None:
    """Check FILE: unknown settings, wrong values. Exit 1 where there are any."""
    try:
        load_file_alone(file)
    except ConfigError as error:
        if as_json:
            _print_json({"file": str(file), "ok": False, "problems": list(error.problems)})
        raise click.ClickException(str(error)) from error
    if as_json:
        _print_json({"file": str(file), "ok": True, "problems": []})
    else:
        click.echo(f"{file}: all right")


@config.command()
@settings_options()
@_JSON
def show(config_file: Path | None, as_json: bool, **arguments: Any) -> None:
    """Show the settings that `serve` would run with, given the same options, and their sources."""
    try:
        values = load(config_file, arguments).model_dump(mode="json")
        origins = sources(config_file, arguments)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        _print_json(
            {name: {"value": value, "source": origins[name]} for name, value in values.items()}
        )
        return
    widths = [max(map(len, values)), max(len(_text(value)) for value in values.values())]
    for name, value in values.items():
        click.echo(f"{name:{widths[0]}}  {_text(value):{widths[1]}}  {origins[name]}")


def template() -> str:
    """All settings with their defaults as a commented YAML file."""
    parts = [_HEAD]
    for name, field in ServerSettings.model_fields.items():
        values = allowed(field)
        text = f"{field.description} Allowed: {values}." if values else str(field.description)
        default = str(field.default) if isinstance(field.default, Path) else field.default
        entry = yaml.safe_dump({name: default}, default_flow_style=False, allow_unicode=True)
        parts.append(textwrap.indent(textwrap.fill(text, _COMMENT_COLUMNS), "# ") + "\n" + entry)
    return "\n".join(parts)


def _text(value: object) -> str:
    return "-" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))
