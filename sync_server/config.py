"""The server's settings: one typed model.

Sources, the first that names a setting wins: command line, environment (`WEIGHTSYNC_…`), YAML
file, default. Unknown keys and wrong values are refused with the key, the value and what is
allowed.
"""

from __future__ import annotations

import difflib
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
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class ConfigError(Exception):
    """The configuration is wrong: one line that names the key, the value and what is allowed."""


class ServerSettings(BaseSettings):
    """Everything `weightsync serve` can be told."""

    model_config = SettingsConfigDict(
        env_prefix="WEIGHTSYNC_", extra="forbid", frozen=True, validate_default=True
    )

    listen: str = Field(
        f"127.0.0.1:{DEFAULT_GRPC_PORT}",
        description="Where gRPC is served, HOST:PORT; port 0 picks a free one.",
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


def load(file: Path | None, arguments: Mapping[str, Any]) -> ServerSettings:
    """The settings from `arguments` (None: not given), the environment, `file`, and the defaults.

    Raises ConfigError with everything that is wrong in one line.
    """
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    if file is not None:
        given[_FROM_FILE] = _read_yaml(file)
    try:
        settings = ServerSettings(**given)
    except ValidationError as error:
        where = f"{file}: " if file is not None else ""
        raise ConfigError(where + "; ".join(_problems(error))) from error
    host, _ = split_address(settings.listen)
    if host not in _LOOPBACK and not settings.insecure:
        raise ConfigError(
            f"listen {settings.listen!r}: another address than loopback needs TLS and a token, "
            "or --insecure"
        )
    return settings


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
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: a mapping of settings is expected at the top level")
    return content


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, ServerSettings.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"unknown setting {key!r}{hint}")
        else:
            problems.append(f"{key} = {item['input']!r}: {item['msg']}")
    return problems
