"""Resource names: every one is parsed and built here.

In this module `_id` is one part of a name ("default") and `_name` the whole path ("runs/default").
Ids contain no slash, so a name is split at its slashes and nothing needs escaping.

All functions raise `InvalidName`, which a caller answers with INVALID_ARGUMENT; trying again with
the same text fails again.
"""

from __future__ import annotations

import re

__all__ = [
    "MAX_VERSION_NUMBER",
    "InvalidName",
    "check_group_id",
    "check_record_id",
    "check_run_id",
    "check_version_number",
    "check_worker_id",
    "parse_progress",
    "parse_rendezvous",
    "parse_run",
    "parse_version",
    "parse_worker",
    "progress_name",
    "rendezvous_name",
    "run_name",
    "version_name",
    "worker_name",
]

MAX_VERSION_NUMBER = 2**63 - 1
"""The largest version number: what an int64 field and a SQLite INTEGER hold."""

_MAX_ID_CHARACTERS = 128
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_SLUG_RULE = (
    "use 1 to 128 ASCII letters, digits, '.', '_' or '-', of which the first is a letter or a digit"
)
_WORKER_RULE = (
    "use 1 to 128 printable characters with no '/' and no space at either end; "
    "spaces inside are allowed"
)
_NUMBER_RULE = f"use a decimal number from 0 to {MAX_VERSION_NUMBER} with no sign or leading zeros"


class InvalidName(ValueError):
    """A resource name or a part of one that is not allowed. Do not retry with the same text.

    `field` says which part ("run_id", "worker_id", "group_id", "version" or, when the path has the
    wrong form, "run_name", "worker_name", "version_name", "rendezvous_name",
    "progress_name"); `value` is what came.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, problem)
        self.field = field
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field} {_quote(self.value)} {self.problem}"


def check_run_id(run_id: str) -> str:
    """`run_id` itself, if it may name a run; run ids become directory names."""
    return _check_slug("run_id", run_id)


def check_group_id(group_id: str) -> str:
    """`group_id` itself, if it may name a rendezvous group; the rule is that of run ids."""
    return _check_slug("group_id", group_id)


def check_record_id(record_id: str) -> str:
    """`record_id` itself, if it may name a progress record; the rule is that of run ids."""
    return _check_slug("record_id", record_id)


def check_worker_id(worker_id: str) -> str:
    """`worker_id` itself, if it may name a worker: 1 to 128 printable characters of any script.

    "Printable" is `str.isprintable`: it excludes control and format characters (also the ones that
    reverse text), surrogates, unassigned code points, and every white space but U+0020.
    """
    _check_length("worker_id", worker_id, _WORKER_RULE)
    if "/" in worker_id:
        raise InvalidName("worker_id", worker_id, f"contains '/': {_WORKER_RULE}")
    if not worker_id.isprintable():
        bad = next(c for c in worker_id if not c.isprintable())
        problem = f"contains U+{ord(bad):04X}, which is not printable: {_WORKER_RULE}"
        raise InvalidName("worker_id", worker_id, problem)
    if worker_id != worker_id.strip():
        raise InvalidName("worker_id", worker_id, f"begins or ends with a space: {_WORKER_RULE}")
    return worker_id


def check_version_number(number: int) -> int:
    """`number` itself, if it may number a weight version: an int from 0 to 2**63 - 1."""
    if type(number) is not int or not 0 <= number <= MAX_VERSION_NUMBER:
        raise InvalidName("version", number, f"is not a version number: {_NUMBER_RULE}")
    return number


def run_name(run_id: str) -> str:
    """The name "runs/{run}"."""
    return f"runs/{check_run_id(run_id)}"


def worker_name(run_id: str, worker_id: str) -> str:
    """The name "runs/{run}/workers/{worker}"."""
    return f"{run_name(run_id)}/workers/{check_worker_id(worker_id)}"


def version_name(run_id: str, number: int) -> str:
    """The name "runs/{run}/weightVersions/{version}"."""
    return f"{run_name(run_id)}/weightVersions/{check_version_number(number)}"


def rendezvous_name(run_id: str, group_id: str) -> str:
    """The name "runs/{run}/rendezvous/{group}"."""
    return f"{run_name(run_id)}/rendezvous/{check_group_id(group_id)}"


def progress_name(run_id: str, record_id: str) -> str:
    """The name "runs/{run}/progress/{record}"."""
    return f"{run_name(run_id)}/progress/{check_record_id(record_id)}"


def parse_run(name: str) -> str:
    """The run id of "runs/{run}"."""
    (run_id,) = _split("run_name", name, "runs/{run}")
    return check_run_id(run_id)


def parse_worker(name: str) -> tuple[str, str]:
    """The run id and the worker id of "runs/{run}/workers/{worker}"."""
    run_id, worker_id = _split("worker_name", name, "runs/{run}/workers/{worker}")
    return check_run_id(run_id), check_worker_id(worker_id)


def parse_version(name: str) -> tuple[str, int]:
    """The run id and the version number of "runs/{run}/weightVersions/{version}"."""
    run_id, text = _split("version_name", name, "runs/{run}/weightVersions/{version}")
    check_run_id(run_id)
    if not _NUMBER.fullmatch(text) or int(text) > MAX_VERSION_NUMBER:
        raise InvalidName("version", text, f"is not a version number: {_NUMBER_RULE}")
    return run_id, int(text)


def parse_rendezvous(name: str) -> tuple[str, str]:
    """The run id and the group id of "runs/{run}/rendezvous/{group}"."""
    run_id, group_id = _split("rendezvous_name", name, "runs/{run}/rendezvous/{group}")
    return check_run_id(run_id), check_group_id(group_id)


def parse_progress(name: str) -> tuple[str, str]:
    """The run id and the record id of "runs/{run}/progress/{record}"."""
    run_id, record_id = _split("progress_name", name, "runs/{run}/progress/{record}")
    return check_run_id(run_id), check_record_id(record_id)


def _check_slug(field: str, text: str) -> str:
    _check_length(field, text, _SLUG_RULE)
    if _SLUG.fullmatch(text):
        return text
    bad = next((c for c in text if not _SLUG.fullmatch("0" + c)), None)
    if bad is not None:
        raise InvalidName(field, text, f"contains {_quote(bad)}: {_SLUG_RULE}")
    raise InvalidName(field, text, f"begins with {_quote(text[0])}: {_SLUG_RULE}")


def _check_length(field: str, text: str, rule: str) -> None:
    if not isinstance(text, str):
        raise InvalidName(field, text, f"is a {type(text).__name__}, not a text: {rule}")
    if not text:
        raise InvalidName(field, text, f"is empty: {rule}")
    if len(text) > _MAX_ID_CHARACTERS:
        raise InvalidName(field, text, f"has {len(text)} characters: {rule}")


def _split(field: str, name: str, pattern: str) -> list[str]:
    """The variable parts of `name`, which are the odd ones; the even ones must be the pattern's."""
    wanted = pattern.split("/")
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != len(wanted) or parts[::2] != wanted[::2]:
        raise InvalidName(field, name, f"does not have the form '{pattern}'")
    return parts[1::2]


def _quote(value: object) -> str:
    """`value` on one line and of bounded length, whatever a client sent."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"(an integer of {value.bit_length()} bits)"  # repr refuses over 4300 digits
    if isinstance(value, str):
        return repr(value if len(value) <= 200 else value[:200] + "...")
    return repr(value) if value is None or isinstance(value, int) else f"({type(value).__name__})"
