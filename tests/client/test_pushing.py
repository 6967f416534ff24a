"""Push and pull as a caller sees them: progress, transports, tensors that change meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.servers import ServerProcess

WEIGHTS = {f"layer.{index}": torch.full((1 << 18,), float(index)) for index in range(8)}


class Recorder:
    """A progress callback that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))

    def check(self, total: int) -> None:
        """The bytes rose with every call, and ended at the total."""
        assert len(self.calls) > 3
        done = [call[0] for call in self.calls]
        assert done == sorted(set(done))
        assert done[0] > 0
        assert self.calls[-1] == (total, total)
        assert {call[1] for call in self.calls} == {total}


def test_progress_rises_and_ends_at_the_total(client: SyncClient, tmp_path: Path) -> None:
    file, copy = tmp_path / "model.safetensors", tmp_path / "copy.safetensors"
    safetensors.torch.save_file(WEIGHTS, file)
    said = Recorder()
    info = client.push(WEIGHTS, version=1, progress=said)
    said.check(info.size)
    said = Recorder()
    client.pull(1, progress=said)
    said.check(info.size)
    said = Recorder()
    into = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    client.pull(1, into=into, progress=said)
    said.check(info.size)
    said = Recorder()
    part = client.pull(1, names=["layer.1", "layer.2", "layer.7"], progress=said)
    said.check(part.wire_bytes)
    said = Recorder()
    pushed = client.push_file(file, version=2, progress=said)
    said.check(file.stat().st_size)
    said = Recorder()
    client.pull_file(copy, version=2, progress=said)
    said.check(pushed.size)
    assert copy.read_bytes() == file.read_bytes()
    assert pushed.digest == info.digest


@pytest.mark.parametrize("transport", ["http", "shared-memory"])
def test_a_transport_that_the_server_does_not_offer(client: SyncClient, transport: str) -> None:
    client.push(WEIGHTS, version=1, transport="grpc")
    with pytest.raises(errors.TransportUnavailable, match=transport):
        client.push(WEIGHTS, version=2, transport=transport)
    with pytest.raises(errors.TransportUnavailable, match=transport):
        client.pull(1, transport=transport)
    assert [version.version for version in client.versions()] == [1]
    assert client.pull(1, transport="grpc").transport == "grpc"


def test_what_is_no_transport_and_a_patch(client: SyncClient) -> None:
    client.push(WEIGHTS, version=1, delta=False)
    with pytest.raises(errors.InvalidArgument, match="carrier-pigeon"):
        client.pull(1, transport="carrier-pigeon")
    with pytest.raises(errors.TransportUnavailable, match="patch"):
        client.pull(1, delta=True)
    assert client.pull(1, delta=False).version == 1


def test_tensors_that_change_during_a_push_never_become_a_version(
    server: ServerProcess, client: SyncClient
) -> None:
    state_dict = {"a": torch.zeros(4 << 20), "b": torch.zeros(4 << 20)}
    middle, stepped = threading.Event(), threading.Event()

    def optimizer() -> None:
        middle.wait(30)
        state_dict["b"].add_(1.0)
        stepped.set()

    def in_the_middle(done: int, total: int) -> None:
        if done > total // 4 and not stepped.is_set():
            middle.set()
            stepped.wait(30)

    step = threading.Thread(target=optimizer)
    step.start()
    with pytest.raises(errors.DigestMismatch):
        client.push(state_dict, version=1, progress=in_the_middle)
    step.join()
    assert stepped.is_set()
    with pytest.raises(errors.RunNotFound):
        client.versions()
    assert not any(name.startswith(f"{client.run}/") for name in server.blobs())
    # Once they hold still they are accepted, under the same number.
    info = client.push(state_dict, version=1)
    assert info.digest == state_dict_digest(state_dict)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.ones(3, device="meta"), "meta"),
        (torch.ones(3, dtype=torch.complex128), "complex128"),
        ([1.0, 2.0], "list"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_carried_is_named_before_anything_is_sent(
    client: SyncClient, value: torch.Tensor, text: str
) -> None:
    said = Recorder()
    with pytest.raises(errors.TensorRefused, match="culprit") as caught:
        client.push({"fine": torch.ones(3), "culprit": value}, version=1, progress=said)
    assert text in str(caught.value)
    assert not said.calls
    with pytest.raises(errors.RunNotFound):
        client.status()


def test_a_dict_with_nothing_in_it(client: SyncClient) -> None:
    info = client.push({}, version=0)
    assert (info.version, info.tensor_count) == (0, 0)
    assert client.wait_version(timeout=5) == 0
    assert client.pull().state_dict == {}
    assert client.pull(0, into={}).digest == state_dict_digest({})
    assert list(client.iter_tensors()) == []


def test_thousands_of_tensors(client: SyncClient) -> None:
    state_dict = {f"expert.{i}.ä": torch.full((i % 5,), i, dtype=torch.int32) for i in range(4000)}
    info = client.push(state_dict, version=1)
    assert info.tensor_count == len(client.tensors(1)) == 4000
    pulled = client.pull(1).state_dict
    assert pulled.keys() == state_dict.keys()
    assert all(pulled[name].equal(tensor) for name, tensor in state_dict.items())
    assert sum(1 for _ in client.iter_tensors(1)) == 4000


def test_the_first_push_makes_the_run_and_a_pull_before_it_says_so(client: SyncClient) -> None:
    for call in (client.pull, client.status, client.versions, lambda: client.pull(1)):
        with pytest.raises(errors.RunNotFound, match=client.run):
            call()
    with client.register("explorer") as explorer:
        with pytest.raises(errors.VersionNotFound):
            explorer.pull()
        client.push({"a": torch.ones(1)}, version=1)
        assert explorer.pull().version == 1
