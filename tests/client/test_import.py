"""Importing the SDK is quick and brings nothing that a trainer or explorer did not ask for."""

from __future__ import annotations

import json
import subprocess
import sys

LIMIT_SECONDS = 0.3
TRIES = 3

IMPORT = """
import json, sys, time
started = time.process_time()  # what it takes of a core, however many others want that core
import sync_client
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""
# The torch-free half of the SDK at work: a server that is not there, a file, a name that is wrong.
USE = """
import sys
from sync_client import SyncClient, errors

with SyncClient("127.0.0.1:1", retry_for=0) as client:
    for call in (
        client.status,
        lambda: client.wait_version(after=1, timeout=0),
        lambda: client.register("explorer"),
        lambda: client.pull_file("/dev/null/x", 1),
    ):
        try:
            call()
        except errors.SyncError:
            pass
        else:
            raise AssertionError(call)
assert "torch" not in sys.modules
"""


def python(script: str) -> str:
    """Runs a script in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_takes_less_than_300_ms_and_no_torch() -> None:
    taken = []
    for _ in range(TRIES):
        found = json.loads(python(IMPORT))
        roots = {name.partition(".")[0] for name in found["modules"]}
        assert not roots & {
            *("torch", "numpy", "safetensors", "sync_server"),
            *("click", "rich", "pydantic", "structlog", "yaml", "google.rpc", "transformers"),
        }
        taken.append(found["seconds"])
        if taken[-1] < LIMIT_SECONDS:
            break
    assert min(taken) < LIMIT_SECONDS, f"seconds to import: {taken}"


def test_what_needs_no_tensors_works_without_torch() -> None:
    python(USE)
