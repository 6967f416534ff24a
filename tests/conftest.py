"""What tests of a running server share."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import pytest

from sync_client import SyncClient
from tests.servers import ServerProcess, running_server


def pytest_configure(config: pytest.Config) -> None:
    """`pytest -m "not large"` leaves out what moves gigabytes."""
    config.addinivalue_line("markers", "large: moves gigabytes; needs as much free memory")
    # A shell starts its background jobs with Ctrl-C ignored, and so would be everything that the
    # tests start and then interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server for all tests that do it no harm; they keep apart by `run_id`."""
    with running_server() as process:
        yield process


@pytest.fixture
def run_id() -> str:
    """A run that nobody else uses."""
    return f"run-{next(_numbers)}"


@pytest.fixture
def client(server: ServerProcess, run_id: str) -> Iterator[SyncClient]:
    """A client of a run of its own on the shared server."""
    with SyncClient(server.address, run=run_id, retry_for=5.0) as made:
        yield made
