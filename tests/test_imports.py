"""The architecture, held by reading the code: who may import whom, and how long a file may be.

docs and DESIGN draw the arrows; a new module of the server belongs between storage and services
unless the table below says otherwise.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"weightsync": ROOT / "proto", "sync_client": ROOT, "sync_server": ROOT}

DOMAIN = frozenset({"sync_server.domain"})
MIDDLE = "the middle of the server"  # journal, coordinator, catalog, uploads, downloads, …
BELOW_MIDDLE = DOMAIN | {"sync_server.storage", "sync_server.waiting", "sync_server.clock"}
TOP = frozenset({"sync_server.commands", "sync_server.cli"})

# What a module, or everything below it, may import of ours. The longest name that fits counts.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "weightsync.v1": frozenset({"weightsync.v1"}),
    "weightsync": frozenset({"weightsync"}),
    "sync_client": frozenset({"weightsync", "sync_client"}),
    "sync_server.domain": DOMAIN,
    "sync_server.storage": DOMAIN | {"sync_server.storage"},
    "sync_server.waiting": DOMAIN,
    "sync_server.clock": DOMAIN,
    "sync_server.config": DOMAIN,
    "sync_server.logs": frozenset(),
    "sync_server.loops": frozenset(),
    "sync_server.malloc": frozenset(),
    "sync_server.services": BELOW_MIDDLE | {MIDDLE, "sync_server.services", "weightsync"},
    "sync_server.server": frozenset({"sync_server", "weightsync"}) - TOP,
    "sync_server.process": frozenset({"sync_server"}) - TOP,
    "sync_server.commands": frozenset({"sync_server", "weightsync"}),
    "sync_server.cli": frozenset({"sync_server"}),
    "sync_server.__main__": frozenset({"sync_server.cli"}),
    "sync_server": BELOW_MIDDLE | {MIDDLE, "sync_server.config", "weightsync"},
}

# The domain computes: no clock, no I/O, no concurrency, nobody else's code.
NOT_IN_DOMAIN = frozenset(
    (
        *("asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "threading"),
        *("datetime", "random", "secrets", "signal", "time", "uuid"),
        *("fcntl", "io", "mmap", "os", "pathlib", "shutil", "sqlite3", "subprocess", "tempfile"),
        *("http", "logging", "select", "selectors", "socket", "ssl", "urllib"),
    )
)
SDK_NEEDS = frozenset(("grpc", "google", "numpy", "safetensors", "torch", "xxhash"))
SDK_USES_IF_THERE = frozenset(("uvloop",))
OPTIONAL_PARTS = ("commands", "demo", "trinity", "integrations")

LINES = 300
LINES_AT_MOST = 500
LONGER_BECAUSE = {
    "sync_client/trinity/handle.py": "one class with one short method for each of upstream's",
    "tests/drop_in/test_handle.py": "the one handle, from its surface to a server that dies",
    "sync_client/control.py": "one class with one short method for each control RPC",
    "sync_client/errors.py": "one class for each reason, each saying whether to retry",
    "sync_server/domain/versions.py": "one book: which versions are served, kept and retired",
    "tests/services/test_progress.py": "one service from its records to a crash",
    "tests/shared/test_layout.py": "our layout and the safetensors library on the same headers",
}


def generated(path: Path) -> bool:
    """Whether protoc wrote the file."""
    return path.stem.endswith(("_pb2", "_pb2_grpc"))


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours with its dotted name."""
    for package, base in PACKAGES.items():
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


NAMES = {name for name, _ in modules()}


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, module) of every import, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:  # `from package import module` is an import of the module
                inner = f"{node.module}.{alias.name}"
                found.append((node.lineno, inner if inner in NAMES else node.module))
    return tuple(found)


def within(name: str, prefix: str) -> bool:
    """Whether `name` is the module or package `prefix` or lies in it."""
    return name == prefix or name.startswith(prefix + ".")


def part_of(name: str) -> str:
    """The longest entry of the table that `name` belongs to."""
    return max((entry for entry in MAY_IMPORT if within(name, entry)), key=len)


def allowed(importer: str, imported: str) -> bool:
    """Whether the table has the arrow."""
    may, target = MAY_IMPORT[part_of(importer)], part_of(imported)
    if imported in PACKAGES and within(importer, imported):
        return True  # the package itself: its version
    if target in TOP and part_of(importer) not in (*TOP, "sync_server.__main__"):
        return False
    if MIDDLE in may and target == "sync_server":
        return True
    return any(within(imported, prefix) for prefix in may)


def test_the_table_itself() -> None:
    """Arrows that must be there, and arrows that must not."""
    for importer, imported, right in [
        ("weightsync.frames", "weightsync.v1.weights_pb2", True),
        ("weightsync.v1.weights_pb2", "weightsync.names", False),
        ("weightsync.names", "sync_client.types", False),
        ("sync_client.aio", "weightsync.names", True),
        ("sync_client.aio", "sync_server.domain.leases", False),
        ("sync_server.server", "sync_client.aio", False),
        ("sync_server.domain.runs", "sync_server.domain.workers", True),
        ("sync_server.domain.runs", "weightsync.names", False),
        ("sync_server.domain.runs", "sync_server.storage.base", False),
        ("sync_server.storage.disk", "sync_server.storage.base", True),
        ("sync_server.storage.disk", "sync_server.coordinator", False),
        ("sync_server.storage.disk", "weightsync.layout", False),
        ("sync_server.waiting", "sync_server.storage.base", False),
        ("sync_server.coordinator", "sync_server.journal", True),
        ("sync_server.coordinator", "sync_server.services.convert", False),
        ("sync_server.coordinator", "sync_server.server", False),
        ("sync_server.a_new_module", "sync_server.uploads", True),
        ("sync_server.services.weights", "sync_server.uploads", True),
        ("sync_server.services.weights", "sync_server.server", False),
        ("sync_server.server", "sync_server.services.weights", True),
        ("sync_server.server", "sync_server.commands.serve", False),
        ("sync_server.commands.serve", "sync_server.server", True),
        ("sync_server.uploads", "sync_server.cli", False),
    ]:
        assert allowed(importer, imported) is right, (importer, imported)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {importer} may not import {imported}"
        for importer, path in modules()
        for line, imported in imports(path)
        if imported.partition(".")[0] in PACKAGES and not allowed(importer, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_domain_is_pure() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: the domain may not import {imported}"
        for importer, path in modules()
        if within(importer, "sync_server.domain")
        for line, imported in imports(path)
        if imported.partition(".")[0] in NOT_IN_DOMAIN
        or imported.partition(".")[0] not in {*sys.stdlib_module_names, "sync_server"}
    ]
    assert not wrong, "\n".join(wrong)


def test_storage_and_waiting_know_nothing_of_grpc() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {imported}"
        for importer, path in modules()
        if within(importer, "sync_server.storage") or importer == "sync_server.waiting"
        for line, imported in imports(path)
        if imported.partition(".")[0] in {"grpc", "google"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_sdk_needs_only_what_it_depends_on() -> None:
    """The rest lives in one environment with vLLM and Ray and may not ask for more."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {imported}"
        for importer, path in modules()
        if importer.partition(".")[0] in ("sync_client", "weightsync")
        and not any(within(importer, f"sync_client.{part}") for part in OPTIONAL_PARTS)
        for line, imported in imports(path)
        if imported.partition(".")[0]
        not in {*sys.stdlib_module_names, *PACKAGES, *SDK_NEEDS, *SDK_USES_IF_THERE, "_typeshed"}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("sync_server.server", "torch numpy sync_client"),
        ("sync_server.cli", "torch grpc pydantic structlog sync_client weightsync"),
        ("sync_server.domain.commands", "grpc asyncio socket sqlite3 weightsync"),
        ("weightsync.names", "grpc google torch sync_client sync_server"),
    ],
)
def test_what_an_import_brings_along(module: str, unwanted: str) -> None:
    """The server starts without torch, the command line without anything slow."""
    code = f"import sys, {module}; print(*[m for m in {unwanted.split()!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_files_are_short() -> None:
    folders = [*(base / name for name, base in PACKAGES.items())]
    folders += [ROOT / name for name in ("tests", "benchmarks", "scripts")]
    wrong = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        name = str(path.relative_to(ROOT))
        if generated(path) or lines <= LINES:
            continue
        if lines > LINES_AT_MOST:
            wrong.append(f"{name} has {lines} lines; {LINES_AT_MOST} is the end")
        elif name not in LONGER_BECAUSE:
            wrong.append(f"{name} has {lines} lines: split it, or say why in LONGER_BECAUSE")
    assert not wrong, "\n".join(wrong)
    assert all((ROOT / name).exists() for name in LONGER_BECAUSE)
