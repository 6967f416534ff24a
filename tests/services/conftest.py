"""A plain channel to the shared server, and a run with one version in it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
import torch

from sync_client import SyncClient
from tests.servers import ServerProcess, running_server
from tests.services.raw import open_channel
from tests.services.sharing import ON


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC, without the SDK."""
    with open_channel(server.address) as made:
        yield made


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """A small state dict with tensors of several kinds."""
    generator = torch.Generator().manual_seed(7)
    return {
        "layer.weight": torch.randn(8, 16, generator=generator).to(torch.bfloat16),
        "layer.bias": torch.arange(16, dtype=torch.int32),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }


@pytest.fixture
def pushed(client: SyncClient, weights: dict[str, torch.Tensor]) -> str:
    """The run's name after version 5 was pushed to it without a lease."""
    client.push(weights, version=5)
    return f"runs/{client.run}"


@pytest.fixture(scope="module")
def sharing() -> Iterator[ServerProcess]:
    """A server whose files may be mapped; on a tmpfs where there is one."""
    with running_server(environment=ON) as server:
        yield server


@pytest.fixture
def local(sharing: ServerProcess, run_id: str) -> Iterator[SyncClient]:
    """A client of a run of its own, on the server's host."""
    with SyncClient(sharing.address, run_id) as made:
        yield made
