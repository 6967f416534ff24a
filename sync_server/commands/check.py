"""`weightsync check`: is every stored version still what was pushed?

It reads the files themselves, with a server running or not, and changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sync_server.commands.settings import settings_options
from sync_server.config import ConfigError, load
from sync_server.domain.versions import Version
from sync_server.storage.base import StorageError
from sync_server.storage.sqlite import SqliteStateStore
from weightsync.digests import StreamDigester
from weightsync.layout import LayoutError, header_size, parse

_PREFIX_BYTES = 8
_READ_BYTES = 8 << 20
_SHOWN_TENSORS = 3

OK, DAMAGED, MISSING = "ok", "damaged", "missing"


@dataclass(frozen=True)
class Stored:
    """A version that the state database knows; `newest` is the one that explorers are given."""

    run: str
    version: Version
    newest: bool


@dataclass(frozen=True)
class Finding:
    """What is the matter with one version. `state` is ok, damaged or missing."""

    run: str
    version: int
    state: str
    size: int
    digest: str
    file: str
    problem: str = ""
    action: str = ""


@click.command()
@settings_options(("data_dir", "blob_dir"))
@click.option("--run", metavar="RUN", help="Only this run.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(config_file: Path | None, run: str | None, as_json: bool, **arguments: Any) -> None:
    """Verify the digest of every stored blob. Exit 1 if one is damaged or missing.

    Reads the server's directories where they are; give the same --data-dir and --blob-dir as to
    'serve'. The server may be running.
    """
    try:
        settings = load(config_file, arguments)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    state, blobs = settings.data_dir / "state.sqlite3", settings.blobs
    stored = [item for item in read_state(state) if run is None or item.run == run]
    if run is not None and not stored:
        raise click.ClickException(f"{state} has no version of a run {run!r}")
    with _progress(sum(item.version.size_bytes for item in stored)) as advance:
        findings = [examine(item, blobs, advance) for item in stored]
    bad = [finding for finding in findings if finding.state != OK]
    if bad:  # what a running server retired meanwhile is no damage
        current = {(item.run, item.version.blob_id) for item in read_state(state)}
        findings = [f for f in findings if f.state == OK or (f.run, f.file) in current]
        bad = [finding for finding in findings if finding.state != OK]
    if as_json:
        report = {"data_dir": str(settings.data_dir), "blob_dir": str(blobs), "ok": not bad}
        found = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({**report, "versions": found}, indent=2))
    else:
        _print(findings)
    if bad:
        all_missing = all(finding.state == MISSING for finding in findings)
        raise click.ClickException(
            f"{len(bad)} of {len(findings)} stored versions in {blobs} are damaged or missing"
            + ("; is that the --blob-dir of the server?" if all_missing else "")
        )


def read_state(path: Path) -> list[Stored]:
    """The versions in a state database. Raises ClickException where it can't be read."""
    if not path.is_file():
        raise click.ClickException(f"no state database {path}: give the --data-dir of the server")
    try:
        store = SqliteStateStore(path, read_only=True)
        try:
            runs = store.load()
        finally:
            store.close()
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    return [
        Stored(run.run_id, version, newest=version.number == run.current)
        for run in sorted(runs, key=lambda run: run.run_id)
        for version in sorted(run.versions, key=lambda version: version.number)
        if version.reference is None  # else its bytes were never here
    ]


def examine(stored: Stored, blobs: Path, advance: Callable[[int], object]) -> Finding:
    """Reads one blob whole and compares it with what was acknowledged. `advance` takes bytes."""
    version = stored.version
    try:
        problem = _damage(blobs / version.blob_id, version, advance)
        state = DAMAGED if problem else OK
    except FileNotFoundError:
        state, problem = MISSING, "the file is not there"
    except OSError as error:
        state, problem = DAMAGED, f"the file can't be read: {error.strerror}"
    action = ""
    if state != OK:
        delete = f"'weightsync delete {version.number} --run {stored.run}'"
        action = f"push a newer version, then {delete}" if stored.newest else delete
        action = f"restore the file from a copy, or {action}"
    return Finding(
        run=stored.run,
        version=version.number,
        state=state,
        size=version.size_bytes,
        digest=version.digest,
        file=version.blob_id,
        problem=problem,
        action=action,
    )


def _damage(path: Path, version: Version, advance: Callable[[int], object]) -> str:
    """What is wrong with the file, "" if nothing. Read, not mapped: a bad disk raises OSError."""
    with path.open("rb") as file:
        # A running server writes a retired blob's file anew, unless somebody holds it.
        fcntl.flock(file, fcntl.LOCK_SH)
        if not path.exists():
            raise FileNotFoundError(path)
        size = os.fstat(file.fileno()).st_size
        if size != version.size_bytes:
            return f"the file has {size} bytes, not {version.size_bytes}"
        try:
            prefix = file.read(_PREFIX_BYTES)
            header = prefix + file.read(header_size(prefix, size) - _PREFIX_BYTES)
            layout = parse(header, size)
        except LayoutError as error:
            return f"the header is damaged: {error}"
        digester = StreamDigester(layout)
        buffer = memoryview(bytearray(_READ_BYTES))
        while count := file.readinto(buffer):
            digester.update(buffer[:count])
            advance(count)
    packed = version.tensor_digests
    expected = [packed[start : start + 8].hex() for start in range(0, len(packed), 8)]
    actual = digester.tensor_digests()
    wrong = [
        name
        for (name, digest), right in zip(actual.items(), expected, strict=False)
        if digest.rpartition(":")[2] != right
    ]
    if wrong:
        more = f" and {len(wrong) - _SHOWN_TENSORS} more" if len(wrong) > _SHOWN_TENSORS else ""
        return "wrong bytes in tensor " + ", ".join(map(repr, wrong[:_SHOWN_TENSORS])) + more
    if digester.version_digest() != version.digest:
        return "names, dtypes or shapes in the header are not those that were pushed"
    return ""


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        name = f"{finding.run} version {finding.version}"
        click.echo(f"{finding.state:8} {name}  {finding.size / 1e6:.1f} MB  {finding.file}")
        if finding.problem:
            click.echo(f"         {finding.problem}")
            click.echo(f"         what to do: {finding.action}")
    if not findings:
        click.echo("no version is stored")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object]]:
    """A callback that takes bytes, and draws on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("check", total=total)
        yield lambda count: bar.advance(task, count)
