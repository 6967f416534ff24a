"""A server behind a network that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sync_client import SyncClient
from tests.faults.proxy import FaultProxy, fault_proxy
from tests.servers import ServerProcess


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[FaultProxy]:
    """Between `far` and the server."""
    with fault_proxy(server.address) as made:
        yield made


@pytest.fixture
def far(proxy: FaultProxy, run_id: str) -> Iterator[SyncClient]:
    """A client behind the proxy; `client` reaches the same run directly."""
    with SyncClient(proxy.address, run=run_id, retry_for=20) as made:
        yield made
