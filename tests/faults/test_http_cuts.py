"""The bulk port behind a network that cuts, falls silent, flips bits, or leads nowhere.

`WEIGHTSYNC_CUTS_MIB` says how large the transfers of 50 cuts are (default 64; 1024 in `make soak`).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.faults.proxy import FaultProxy, fault_proxy
from tests.servers import ServerProcess, running_server

MIB = 1 << 20
CUT_MIB = int(os.environ.get("WEIGHTSYNC_CUTS_MIB", "64"))
CUTS = 50
_CHUNK = MIB  # what one recv or sendmsg takes at the most


def weights(mib: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random bytes in tensors of many sizes, also below 16 bytes and none."""
    source = torch.Generator().manual_seed(seed)
    sizes = [0, 1, 3, 15, 16, 17, 4096, 999_999]
    left = mib * MIB - sum(sizes)
    sizes += [left // 3, left // 2, left - left // 3 - left // 2]
    return {
        f"tensor.{index}": torch.randint(0, 256, (size,), dtype=torch.uint8, generator=source)
        for index, size in enumerate(sizes)
    }


def same(found: object, expected: dict[str, torch.Tensor]) -> bool:
    """Byte for byte."""
    assert isinstance(found, dict)
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


@pytest.fixture(scope="module")
def bulk() -> Iterator[tuple[ServerProcess, FaultProxy]]:
    """A server whose clients are told a proxy in place of its bulk port."""
    with fault_proxy("127.0.0.1:1") as proxy:
        environment = {
            "WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0",
            "WEIGHTSYNC_HTTP_ADVERTISE": f"http://{proxy.address}",
        }
        with running_server(environment=environment) as server:
            proxy.upstream = str(server.ready["http"])
            yield server, proxy


@pytest.fixture
def proxied(bulk: tuple[ServerProcess, FaultProxy]) -> Iterator[FaultProxy]:
    """The proxy, without faults at first and at last."""
    bulk[1].calm()
    yield bulk[1]
    bulk[1].calm()


@pytest.fixture
def http(bulk: tuple[ServerProcess, FaultProxy], run_id: str) -> Iterator[SyncClient]:
    """A client of a run of its own: gRPC reaches the server, bulk bytes take the proxy."""
    with SyncClient(bulk[0].address, run=run_id, retry_for=20) as client:
        yield client


@pytest.mark.timeout(600)
def test_a_push_with_fifty_cuts(proxied: FaultProxy, http: SyncClient) -> None:
    sent = weights(CUT_MIB)
    source = random.Random(1)
    most = 3 * CUT_MIB * MIB // (2 * CUTS)
    way = proxied.arm("up", cut_after=[source.randrange(1, most) for _ in range(CUTS)])
    info = http.push(sent, 1, transport="http")
    assert way.cuts == CUTS
    assert info.digest == state_dict_digest(sent)
    assert way.total <= info.size + (CUTS + 1) * _CHUNK
    assert same(dict(http.pull(1, transport="grpc").state_dict), sent)


@pytest.mark.timeout(600)
def test_a_pull_with_fifty_cuts(proxied: FaultProxy, http: SyncClient) -> None:
    sent = weights(CUT_MIB)
    info = http.push(sent, 1, transport="grpc")
    into = {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    source = random.Random(2)
    most = 3 * CUT_MIB * MIB // (2 * CUTS)
    way = proxied.arm("down", cut_after=[source.randrange(1, most) for _ in range(CUTS)])
    pulled = http.pull(1, into=into, transport="http")
    assert way.cuts == CUTS
    assert pulled.digest == info.digest
    assert pulled.transport == "http"
    # Each byte once, but for a part of the header that a cut took away.
    assert info.size <= pulled.wire_bytes <= info.size + (64 << 10)
    assert same(into, sent)


def test_an_iterator_goes_on_where_it_was(proxied: FaultProxy, http: SyncClient) -> None:
    sent = weights(40)
    http.push(sent, 1, transport="grpc")
    source = random.Random(3)
    way = proxied.arm("down", cut_after=[source.randrange(1, 8 * MIB) for _ in range(5)])
    assert same(dict(http.iter_tensors(1)), sent)
    assert way.cuts == 5
    assert way.total > 40 * MIB  # it did come this way
    chosen = ["tensor.8", "tensor.2", "tensor.0"]
    assert same(dict(http.iter_tensors(1, names=chosen)), {name: sent[name] for name in chosen})


def test_cuts_in_the_heads(proxied: FaultProxy, http: SyncClient) -> None:
    sent = weights(4)
    proxied.arm("up", cut_after=[1, 50, 200, 350])
    proxied.arm("down", cut_after=[1, 40, 150])
    http.push(sent, 1, transport="http")
    proxied.arm("up", cut_after=[1, 50, 200])
    proxied.arm("down", cut_after=[1, 40, 150, 400])
    assert same(dict(http.pull(1, transport="http").state_dict), sent)


def test_an_answer_that_is_lost_is_asked_for_again(proxied: FaultProxy, http: SyncClient) -> None:
    """The last byte commits: the answer breaks off, and the push is not made twice."""
    way = proxied.arm("down", cut_after=[20])
    info = http.push(weights(2), 1, transport="http")
    assert way.cuts == 1
    assert info.version == 1
    assert [version.version for version in http.versions()] == [1]


@pytest.mark.parametrize("at", [100, 70_000, 3 * MIB])
def test_a_flipped_bit_never_becomes_a_version(
    proxied: FaultProxy, http: SyncClient, at: int
) -> None:
    sent = weights(4)
    http.push(weights(2), 1)
    way = proxied.arm("up", flip_at=at + 800)  # past the head of the request
    with pytest.raises((errors.DigestMismatch, errors.InvalidHeader)):
        http.push(sent, 2, transport="http")
    assert way.flips == 1
    assert http.status().latest_version == 1
    http.push(sent, 2, transport="http")
    assert same(dict(http.pull(2, transport="grpc").state_dict), sent)


def test_a_flipped_bit_is_fetched_again(proxied: FaultProxy, http: SyncClient) -> None:
    sent = weights(4)
    http.push(sent, 1, transport="grpc")
    way = proxied.arm("down", flip_at=2 * MIB)
    pulled = http.pull(1, transport="http")
    assert way.flips == 1
    assert same(dict(pulled.state_dict), sent)
    assert pulled.wire_bytes > 7 * MIB  # all of it, twice


def test_a_silent_network_ends_a_cancelled_call_at_once(
    proxied: FaultProxy, bulk: tuple[ServerProcess, FaultProxy], run_id: str
) -> None:
    sent = weights(8)
    client = SyncClient(bulk[0].address, run=run_id)
    client.push(sent, 1, transport="grpc")
    into = {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    way = proxied.arm("down", drip_bytes=MIB, delay=0.05)
    with ThreadPoolExecutor(1) as threads:

        def hush(done: int, total: int) -> None:
            proxied.hush()

        pulling = threads.submit(client.pull, 1, into, transport="http", progress=hush)
        while not way.passed:
            pass
        client.close()
        assert isinstance(pulling.exception(timeout=15), errors.ClientClosed)
    kept = {name: tensor.clone() for name, tensor in into.items()}
    proxied.speak()
    assert same(into, kept)  # nobody writes into them any more


def test_a_port_that_leads_nowhere(
    bulk: tuple[ServerProcess, FaultProxy], run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything goes over gRPC then, and the log says so once."""
    environment = {
        "WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0",
        "WEIGHTSYNC_HTTP_ADVERTISE": "http://127.0.0.1:9",
    }
    sent = weights(3)
    caplog.set_level(logging.WARNING, "weightsync")
    with (
        running_server(environment=environment) as server,
        SyncClient(server.address, run=run_id) as client,
    ):
        client.push(sent, 1)
        pulled = client.pull(1)
        assert pulled.transport == "grpc"
        assert same(dict(pulled.state_dict), sent)
        assert client.pull(1).transport == "grpc"
        assert same(dict(client.iter_tensors(1)), sent)
        said = [record.getMessage() for record in caplog.records if "no HTTP" in record.message]
        assert len(said) == 1
        assert "127.0.0.1:9" in said[0]
        for ask in (
            lambda: client.push(sent, 2, transport="http"),
            lambda: client.pull(1, transport="http"),
        ):
            with pytest.raises(errors.TransportUnavailable, match="http"):
                ask()
