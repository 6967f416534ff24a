"""Progress records and configurations as plain data, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import struct_pb2

from sync_client import convert, errors
from weightsync import names
from weightsync.v1 import progress_pb2 as pb
from weightsync.v1 import runs_pb2

_MAX_EXACT = 2**53  # a Struct's numbers are doubles


@dataclass(frozen=True)
class Progress:
    """A saved record: its fields, the etag to save over it, when it was saved (Unix seconds)."""

    name: str
    record: Mapping[str, Any]
    etag: str
    update_time: float


@dataclass(frozen=True)
class ConfigDifference:
    """A key whose value differs; None stands for "not there". Secrets are masked."""

    key: str
    old: Any
    new: Any


def encode(run: str, name: str, kind: str, fields: Mapping[str, Any], etag: str) -> pb.Progress:
    """A record of `kind` trainer, explorer or stage. Raises InvalidName, InvalidArgument."""
    try:
        message = pb.Progress(name=names.progress_name(run, name), etag=etag)
    except names.InvalidName as error:
        raise errors.InvalidName(str(error)) from error
    if kind not in ("trainer", "explorer", "stage"):
        raise errors.InvalidArgument(f"record {kind!r}: trainer, explorer or stage is allowed")
    record = getattr(message, kind)
    record.SetInParent()
    for key, value in fields.items():
        if key not in record.DESCRIPTOR.fields_by_name:
            allowed = ", ".join(record.DESCRIPTOR.fields_by_name)
            raise errors.InvalidArgument(f"{kind} records have no {key!r}: {allowed} are allowed")
        if value is None:
            continue
        try:
            if key == "taskset_states":
                record.taskset_states.extend(struct(item, key) for item in value)
            elif key == "sample_strategy_state":
                record.sample_strategy_state.CopyFrom(struct(value, key))
            else:
                setattr(record, key, value)
        except (TypeError, ValueError) as error:
            raise errors.InvalidArgument(f"{key} = {value!r}: {error}") from error
    return message


def decode(message: pb.Progress) -> Progress:
    """A record as plain data. What was not saved is 0, "" or []; `experience_index` and
    `sample_strategy_state` are absent then."""
    kind = message.WhichOneof("record")
    assert kind is not None
    record = getattr(message, kind)
    fields: dict[str, Any] = {}
    for descriptor in record.DESCRIPTOR.fields:
        name = descriptor.name
        if name == "taskset_states":
            fields[name] = [plain(item) for item in record.taskset_states]
        elif name == "sample_strategy_state":
            if record.HasField(name):
                fields[name] = plain(record.sample_strategy_state)
        elif not descriptor.has_presence or record.HasField(name):
            fields[name] = getattr(record, name)
    return Progress(
        name=names.parse_progress(message.name)[1],
        record=fields,
        etag=message.etag,
        update_time=convert.seconds(message.update_time),
    )


def struct(data: Mapping[str, Any], where: str) -> struct_pb2.Struct:
    """Plain data as a Struct. Raises InvalidArgument for what would not come back the same."""
    if not isinstance(data, Mapping):
        raise errors.InvalidArgument(f"{where}: a {type(data).__name__} is no mapping")
    message = struct_pb2.Struct()
    message.update(_exact(data, where))
    return message


def plain(message: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain data; whole numbers become integers, as in JSON."""
    return {key: _plain(value) for key, value in message.fields.items()}


def differences(items: Sequence[runs_pb2.ConfigDifference]) -> list[ConfigDifference]:
    """The differences of a CheckRunConfig answer."""
    return [
        ConfigDifference(item.key, _plain(item.old_value), _plain(item.new_value)) for item in items
    ]


def _plain(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        # Beyond 2**53 a float was meant; as an integer it could not be saved again.
        return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number
    return getattr(value, kind) if kind in ("bool_value", "string_value") else None


def _exact(value: Any, where: str) -> Any:
    """The value made of nothing but dicts, lists and scalars. Refuses by name what a Struct can't
    hold exactly: it would be silently changed."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise errors.InvalidArgument(f"{where}: key {key!r} is no text")
        return {key: _exact(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_EXACT:
            raise errors.InvalidArgument(f"{where} = {value}: integers up to 2**53 are exact")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise errors.InvalidArgument(f"{where} = {value}: JSON has no such number")
        return value
    raise errors.InvalidArgument(f"{where}: a {type(value).__name__} is no plain data")
