"""The server's settings as options of a command: one for each field, so that none is forgotten."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic.fields import FieldInfo

from sync_server.config import ENV_PREFIX, ServerSettings

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_FILE = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="WEIGHTSYNC_CONFIG",
    show_envvar=True,
    help="A YAML file of settings; 'weightsync config init' writes one.",
)


def settings_options(only: Iterable[str] | None = None) -> Callable[[F], F]:
    """Adds `--config` and an option for each setting (or for `only` these).

    An option that was not given is None, so that the environment, the file and the default can
    speak: `sync_server.config.load` puts them in order.
    """
    names = list(ServerSettings.model_fields) if only is None else list(only)

    def decorate(command: F) -> F:
        for name in reversed(names):
            command = _option(name, ServerSettings.model_fields[name])(command)
        return CONFIG_FILE(command)

    return decorate


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: "one of sqlite, memory", "1 to 10000"; "" for texts."""
    kind = _bare(field.annotation)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if kind is bool:
        return "true or false"
    low, high = _range(field)
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"{low} or more" if low is not None else f"at most {high}" if high is not None else ""


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    kind = _bare(field.annotation)
    notes = [f"env var: {ENV_PREFIX}{name.upper()}"]
    if field.default is not None:
        notes.append(f"default: {str(field.default).lower() if kind is bool else field.default}")
    text = f"{field.description}  [{'; '.join(notes)}]"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    return click.option(flag, name, default=None, help=text, **_type(name, kind, field))


def _type(name: str, kind: Any, field: FieldInfo) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"type": click.Choice([str(choice) for choice in get_args(kind)])}
    if kind is Path:
        return {"type": click.Path(path_type=Path), "metavar": "PATH"}
    low, high = _range(field)
    if kind is int:
        return {"type": click.IntRange(low, high), "metavar": "N"}
    if kind is float:
        return {"type": click.FloatRange(low, high), "metavar": "NUMBER"}
    metavar = {"listen": "HOST:PORT", "advertise": "URL"}.get(name.rpartition("_")[2], "TEXT")
    return {"type": str, "metavar": metavar}


def _bare(annotation: Any) -> Any:
    """`X | None` as X."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else str
    return annotation


def _range(field: FieldInfo) -> tuple[Any, Any]:
    low = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, annotated_types.Le)), None)
    return low, high
