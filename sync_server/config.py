"""The server's settings: one typed model.

Sources, the first that names a setting wins: command line, environment (`WEIGHTSYNC_…`), YAML
file, default. Unknown keys and wrong values are refused with the key, the value and what is
allowed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sync_server.domain.versions import DEFAULT_KEEP

DEFAULT_GRPC_PORT = 50051
ENV_PREFIX = "WEIGHTSYNC_"
OFF = "off"
_URL = re.compile(r"https?://[^/?#\s]+")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class ConfigError(Exception):
    """The configuration is wrong. `problems` name each key, its value and what is allowed."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ServerSettings(BaseSettings):
    """Everything `weightsync serve` can be told."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        # A compose file passes on variables that are not set as empty ones.
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    listen: str = Field(
        f"127.0.0.1:{DEFAULT_GRPC_PORT}",
        description="Where gRPC is served, HOST:PORT; port 0 picks a free one.",
    )
    http_listen: str | None = Field(
        None,
        description="Where bulk bytes are served over HTTP, HOST:PORT, or `off`. Default: the host "
        "of `listen` and the port after it, or a free one.",
    )
    http_advertise: str | None = Field(
        None,
        description="The URL that clients are told for bulk bytes, http(s)://HOST[:PORT], where a "
        "proxy or a cache stands before the HTTP port.",
    )
    insecure: bool = Field(
        False, description="Serve another address than loopback without TLS and a token."
    )
    data_dir: Path = Field(Path("weightsync-data"), description="Directory of the state database.")
    blob_dir: Path | None = Field(
        None,
        description="Directory of the weights; a tmpfs gives memory speed. "
        "Default: `blobs` in the data directory.",
    )
    shared_memory: bool = Field(
        True, description="Let clients that see the blob directory map versions from it."
    )
    state_store: Literal["sqlite", "memory"] = Field(
        "sqlite", description="`memory` forgets everything when the server stops."
    )
    keep_versions: int = Field(
        DEFAULT_KEEP,
        ge=1,
        le=10_000,
        description="How many versions of a run are kept, pinned ones apart.",
    )
    max_uploads: int = Field(64, ge=1, le=100_000, description="How many uploads may be under way.")
    http_connections: int = Field(
        256, ge=1, le=100_000, description="How many connections the HTTP port takes at a time."
    )
    http_stall_seconds: float = Field(
        30.0,
        ge=0.1,
        le=3600,
        description="When a connection of the HTTP port on which next to nothing moves is cut.",
    )
    shard_wait_seconds: float = Field(
        60.0,
        ge=0.1,
        le=86400,
        description="How long nothing may come of a version that is pushed in shards before the "
        "ranks are told which shards are missing.",
    )
    max_header_mib: int = Field(
        16, ge=1, le=1024, description="The largest safetensors header that is accepted, in MiB."
    )
    shutdown_grace: float = Field(
        5.0, ge=0, le=3600, description="Seconds that running calls get to end at a shutdown."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged."
    )
    log_format: Literal["console", "json"] = Field("console", description="How it is logged.")

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("http_listen")
    @classmethod
    def _http_listen_is_an_address(cls, value: str | None) -> str | None:
        if value is not None and value != OFF:
            split_address(value)
        return value

    @field_validator("http_advertise")
    @classmethod
    def _http_advertise_is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not _URL.fullmatch(value):
            raise ValueError(f"{value!r} is no http://HOST:PORT or https://HOST:PORT")
        return value

    @property
    def blobs(self) -> Path:
        """Where the weights are kept."""
        return self.blob_dir if self.blob_dir is not None else self.data_dir / "blobs"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (given as arguments), environment, file (given as `_file`)."""
        del dotenv_settings, file_secret_settings
        assert isinstance(init_settings, InitSettingsSource)
        arguments = dict(init_settings.init_kwargs)
        from_file = arguments.pop(_FROM_FILE, {})
        return (
            InitSettingsSource(settings_cls, arguments),
            env_settings,
            InitSettingsSource(settings_cls, from_file),
        )


_FROM_FILE = "_from_file"


class _FileAlone(ServerSettings):
    """The same settings with no other source than what is passed."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed, alone."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def load(file: Path | None, arguments: Mapping[str, Any]) -> ServerSettings:
    """The settings from `arguments` (None: not given), the environment, `file`, and the defaults.

    Raises ConfigError with everything that is wrong in one line.
    """
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    content = {} if file is None else _read_yaml(file)
    given[_FROM_FILE] = content
    try:
        settings = ServerSettings(**given)
    except ValidationError as error:
        raise ConfigError(*_problems(error, _sources(arguments, content, file))) from error
    _check_exposure(settings)
    return settings


def load_file_alone(file: Path) -> ServerSettings:
    """The settings of a file, whatever the environment says. Raises ConfigError."""
    content = _read_yaml(file)
    try:
        settings = _FileAlone(**content)
    except ValidationError as error:
        raise ConfigError(*_problems(error, dict.fromkeys(content, str(file)))) from error
    _check_exposure(settings)
    return settings


def sources(file: Path | None, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Where `load` takes each setting from: "command line", "environment WEIGHTSYNC_…", the
    file's name, or "default". Raises ConfigError where the file can't be read.
    """
    content = {} if file is None else _read_yaml(file)
    found = _sources(arguments, content, file)
    return {name: found.get(name, "default") for name in ServerSettings.model_fields}


def _sources(
    arguments: Mapping[str, Any], content: Mapping[str, Any], file: Path | None
) -> dict[str, str]:
    found = dict.fromkeys(content, str(file))
    for variable, value in os.environ.items():  # read as pydantic-settings does, in any case
        if value and variable.upper().startswith(ENV_PREFIX):
            found[variable[len(ENV_PREFIX) :].lower()] = f"environment {variable}"
    given = [name for name, value in arguments.items() if value is not None]
    return {**found, **dict.fromkeys(given, "command line")}


def _check_exposure(settings: ServerSettings) -> None:
    for name in ("listen", "http_listen"):
        address: str | None = getattr(settings, name)
        if address in (None, OFF) or settings.insecure:
            continue
        host, _ = split_address(address)
        if host not in _LOOPBACK:
            raise ConfigError(
                f"{name} {address!r}: another address than loopback needs TLS and a token, "
                "or --insecure"
            )


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[V6]:PORT`. Raises ValueError that says what is allowed."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    well_formed = colon and host and (bracketed or ":" not in host)
    if not well_formed or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{address!r} is no HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: a mapping of settings is expected at the top level")
    return content


def _problems(error: ValidationError, found_in: Mapping[str, str]) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, ServerSettings.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"{found_in.get(key, '?')}: unknown setting {key!r}{hint}")
        else:
            text = item["msg"].removeprefix("Value error, ")
            problems.append(f"{found_in.get(key, '?')}: {key} = {item['input']!r}: {text}")
    return problems
