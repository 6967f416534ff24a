"""Bits that flip on the way: what is damaged is refused, fetched again, and never applied.

TCP's checksum lets one damaged packet in 65,536 through, and broken memory in a switch damages
many; so this happens in a large cluster.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient, errors, stalls
from sync_client.tensors import state_dict_digest
from tests.faults.proxy import Direction, FaultProxy, fault_proxy
from tests.servers import ServerProcess, running_server
from tests.until import until

MARK = b"<weights go here>"  # so that the proxy finds tensors among the frames
SIZE = 4 << 20


def marked(offset: int) -> torch.Tensor:
    """A tensor with the mark in it, once."""
    tensor = torch.zeros(SIZE, dtype=torch.uint8)
    tensor[offset : offset + len(MARK)] = torch.tensor(list(MARK), dtype=torch.uint8)
    return tensor


WEIGHTS = {
    "first": torch.full((1 << 20,), 1.5),
    "marked": marked(3 << 20),
    "last": torch.arange(1 << 18),
}
DIGEST = state_dict_digest(WEIGHTS)


class Once:
    """A progress callback that ends the damage when the first transfer is through."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._done = 0
        self.attempts = 1

    def __call__(self, done: int, total: int) -> None:
        if done < self._done:
            self.attempts += 1
            self._proxy.calm()
        self._done = done


@pytest.mark.parametrize("into", [False, True])
def test_a_damaged_pull_is_fetched_again(
    into: bool, proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    info = client.push(WEIGHTS, version=1)
    way = proxy.arm("down", flip_in=MARK)
    once = Once(proxy)
    target = {name: torch.zeros_like(t) for name, t in WEIGHTS.items()} if into else None
    pulled = far.pull(1, into=target, progress=once)
    assert (way.flips, once.attempts) == (1, 2)
    assert state_dict_digest(pulled.state_dict) == pulled.digest == DIGEST
    assert pulled.wire_bytes == 2 * info.size  # what damage costs is not hidden


def test_a_pull_that_is_damaged_every_time_is_refused(
    proxy: FaultProxy, far: SyncClient, client: SyncClient, tmp_path: Path
) -> None:
    client.push(WEIGHTS, version=1)
    way = proxy.arm("down", flip_in=MARK)
    with pytest.raises(errors.DigestMismatch):
        far.pull(1)
    assert way.flips == 2
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"what was there before")
    with pytest.raises(errors.DigestMismatch):
        far.pull_file(file, 1)
    assert file.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    # Tensors that are not hit can be had.
    assert far.pull(1, names=["first", "last"]).state_dict["first"].equal(WEIGHTS["first"])


def test_a_damaged_tensor_is_never_given_out_by_the_iterator(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push(WEIGHTS, version=1)
    proxy.arm("down", flip_in=MARK)
    given: dict[str, torch.Tensor] = {}
    with pytest.raises(errors.DigestMismatch, match="marked"):
        given.update(far.iter_tensors(1))
    assert "marked" not in given
    assert all(tensor.equal(WEIGHTS[name]) for name, tensor in given.items())
    proxy.calm()
    assert state_dict_digest(dict(far.iter_tensors(1))) == DIGEST


def test_a_damaged_push_is_refused_and_leaves_nothing(
    server: ServerProcess, proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push({"a": torch.ones(3)}, version=1)
    before = (client.status(), client.versions())
    way = proxy.arm("up", flip_in=MARK)
    with pytest.raises(errors.DigestMismatch):
        far.push(WEIGHTS, version=2)
    assert way.flips >= 1
    assert (client.status(), client.versions()) == before
    until(lambda: sum(name.startswith(f"{client.run}/") for name in server.blobs()) == 1)
    proxy.calm()
    assert far.push(WEIGHTS, version=2).digest == DIGEST


SMALL = {"a": torch.arange(30_000), "b": torch.ones(50, 40, dtype=torch.bfloat16)}
SMALL_DIGEST = state_dict_digest(SMALL)


def places(bulk: Direction, answers: Direction) -> list[tuple[Direction, int]]:
    """Where to flip a bit: the handshake and the first frames are the most delicate, then anywhere.

    Little goes the other way, so only its first bytes are sure to be there.
    """
    source = random.Random(5)
    return [
        *((bulk, place) for place in range(0, 400, 17)),
        *((bulk, source.randrange(400, 240_000)) for _ in range(12)),
        *((answers, place) for place in range(0, 200, 17)),
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that a flipped bit made stall are given up after seconds instead of a minute."""
    monkeypatch.setattr(stalls, "STALL_SECONDS", 1.0)


@pytest.fixture
def damaged() -> Iterator[ServerProcess]:
    """A server of its own: a damaged path makes grpc.aio complain (see test_hostile_http2.py)."""
    with running_server(faults_allowed=True) as made:
        yield made


@pytest.mark.usefixtures("impatient")
def test_a_bit_anywhere_in_a_pull(damaged: ServerProcess) -> None:
    tried = places("down", "up")
    hit = wrong = 0
    with SyncClient(damaged.address) as client, fault_proxy(damaged.address) as proxy:
        client.push(SMALL, version=1)
        client.push({"a": torch.zeros(3)}, version=3)  # what a damaged request may ask for
        for direction, place in tried:
            way = proxy.arm(direction, flip_at=place)
            into = {name: torch.zeros_like(tensor) for name, tensor in SMALL.items()}
            with SyncClient(proxy.address, retry_for=2.0) as far:
                try:
                    pulled = far.pull(1, into=into)
                except errors.SyncError:
                    wrong += 1  # refused: nobody acts with these
                else:
                    assert state_dict_digest(into) == SMALL_DIGEST, place
                    assert pulled.version == 1
            hit += way.flips
        assert client.pull(1).digest == SMALL_DIGEST
    assert hit > len(tried) * 0.8  # the rest lay beyond the end of what was sent
    assert wrong < len(tried) / 2


@pytest.mark.usefixtures("impatient")
def test_a_bit_anywhere_in_a_push(damaged: ServerProcess) -> None:
    tried = places("up", "down")
    hit = 0
    with SyncClient(damaged.address) as client, fault_proxy(damaged.address) as proxy:
        for number, (direction, place) in enumerate(tried, start=1):
            way = proxy.arm(direction, flip_at=place)
            with SyncClient(proxy.address, retry_for=2.0) as far:
                try:
                    info = far.push(SMALL, version=number)
                except errors.SyncError:
                    pass  # refused: then it is no version, or it is one and right
                else:
                    assert info.digest == SMALL_DIGEST
            hit += way.flips
        client.push(SMALL, version=10**6)
        # Whatever became a version, also under a damaged name, is whole and right.
        for version in client.versions():
            pulled = client.pull(version.version)
            assert state_dict_digest(pulled.state_dict) == version.digest == SMALL_DIGEST
    assert hit > len(tried) * 0.8  # the rest lay beyond the end of what was sent
