"""Pulls through the server's own files: mapped, copied, protected, and what they fall back to."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync_client import SyncClient, errors
from sync_client.tensors import SAFETENSORS_DTYPES, state_dict_digest
from tests.servers import ServerProcess, fast_directory, running_server
from tests.services.sharing import ON, same, weights
from tests.until import until

_MIB = 1 << 20


def test_a_version_is_mapped_and_nothing_goes_over_the_wire(local: SyncClient) -> None:
    sent = weights()
    info = local.push(sent, version=1)
    pulled = local.pull()
    assert (pulled.transport, pulled.wire_bytes, pulled.version) == ("shared-memory", 0, 1)
    assert pulled.digest == info.digest == state_dict_digest(pulled.state_dict)
    assert same(pulled.state_dict, sent)
    some = local.pull(1, names=["b", "empty"])
    assert same(some.state_dict, {name: sent[name] for name in ("b", "empty")})
    assert some.digest == state_dict_digest(some.state_dict)
    assert same(dict(local.iter_tensors(1)), sent)
    with pytest.raises(errors.TensorNotFound):
        local.pull(1, names=["z"])
    with pytest.raises(errors.VersionNotFound):
        local.pull(2)


def test_it_is_copied_into_ones_own_tensors(local: SyncClient, tmp_path: Path) -> None:
    sent = weights(3)
    info = local.push(sent, version=1)
    own = {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    before = {name: tensor.data_ptr() for name, tensor in own.items()}
    steps: list[int] = []
    pulled = local.pull(into=own, progress=lambda done, total: steps.append(done))
    assert (pulled.transport, pulled.digest) == ("shared-memory", info.digest)
    assert same(own, sent)
    assert {name: tensor.data_ptr() for name, tensor in own.items()} == before
    assert steps[-1] == info.size
    with pytest.raises(errors.IntoRefused):
        local.pull(into={**own, "z": torch.ones(1)})
    assert local.pull_file(tmp_path / "copy.safetensors", 1).digest == info.digest


def test_the_transport_that_is_asked_for_is_the_one_that_is_used(local: SyncClient) -> None:
    sent = weights()
    local.push(sent, version=1)
    assert local.pull(transport="shared-memory").transport == "shared-memory"
    over_grpc = local.pull(transport="grpc")
    assert (over_grpc.transport, over_grpc.wire_bytes > 0) == ("grpc", True)
    assert same(over_grpc.state_dict, sent)


# Not the packed ones, of which not every shape is a tensor.
_DTYPES = sorted((d for d in SAFETENSORS_DTYPES if "x2" not in str(d)), key=str)
_numbers = itertools.count()


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(_DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=6
    ),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_byte_of_any_state_dict(
    sharing: ServerProcess, run_id: str, shapes: list[tuple[torch.dtype, list[int]]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sent: dict[str, torch.Tensor] = {}
    for index, (dtype, shape) in enumerate(shapes):
        count = int(torch.Size(shape).numel()) * dtype.itemsize
        raw = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
        if dtype is torch.bool:
            raw %= 2
        sent[f"t{index}"] = raw.view(dtype).reshape(shape)
    with SyncClient(sharing.address, f"{run_id}-{next(_numbers)}") as local:
        info = local.push(sent, version=1)
        pulled = local.pull()
    assert pulled.transport == "shared-memory"
    assert state_dict_digest(pulled.state_dict) == info.digest == state_dict_digest(sent)


# --- protection


def test_who_writes_into_a_mapped_tensor_harms_nobody(
    local: SyncClient, sharing: ServerProcess
) -> None:
    sent = weights(5)
    info = local.push(sent, version=1)
    mine, theirs = local.pull().state_dict, local.pull().state_dict
    for tensor in mine.values():
        tensor.zero_()
    assert same(theirs, sent)
    assert state_dict_digest(local.pull(transport="grpc").state_dict) == info.digest
    with SyncClient(sharing.address, local.run) as other:
        assert same(other.pull().state_dict, sent)


def test_mapped_tensors_keep_their_bytes_when_their_version_is_gone(local: SyncClient) -> None:
    """The file of a retired version is written anew on a tmpfs; but not this one."""
    kept: list[tuple[int, dict[str, torch.Tensor]]] = []
    for number in range(1, 9):
        local.push(weights(number), version=number)
        pulled = local.pull(number)
        assert pulled.transport == "shared-memory"
        kept.append((number, dict(pulled.state_dict)))
    assert [info.version for info in local.versions()] == [8, 7]
    for number, tensors in kept:
        assert same(tensors, weights(number))


_HOLD = """
import sys, torch
from sync_client import SyncClient
with SyncClient(sys.argv[1], sys.argv[2]) as client:
    pulled = client.pull(transport="shared-memory")
    print(pulled.digest, flush=True)
    sys.stdin.read()
"""


def test_a_killed_reader_holds_nothing(sharing: ServerProcess, local: SyncClient) -> None:
    info = local.push(weights(1, rows=20_000), version=1)
    arguments = [sys.executable, "-c", _HOLD, sharing.address, local.run]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == info.digest
        folder = sharing.blob_dir / local.run
        for number in (2, 3, 4):
            local.push(weights(number, rows=20_000), version=number)
        reader.send_signal(signal.SIGKILL)
    for number in range(5, 9):
        local.push(weights(number, rows=20_000), version=number)
    assert same(local.pull().state_dict, weights(8, rows=20_000))
    until(lambda: len(list(folder.iterdir())) <= 3)  # two versions, and a spare


@pytest.mark.large
def test_many_readers_of_one_version_add_no_memory(sharing: ServerProcess, run_id: str) -> None:
    size = 256 * _MIB
    with SyncClient(sharing.address, run_id) as trainer:
        trainer.push({"w": torch.ones(size // 4)}, version=1)
    clients = [SyncClient(sharing.address, run_id) for _ in range(8)]
    process = psutil.Process()
    before = process.memory_full_info().uss
    pulled = [client.pull() for client in clients]
    total = sum(float(p.state_dict["w"].sum()) for p in pulled)
    assert total == 8 * size // 4
    assert process.memory_full_info().uss - before < size // 8
    for client in clients:
        client.close()


# --- where it can't be had


def test_without_it_grpc_is_used_and_that_is_said_once(
    server: ServerProcess, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weightsync")
    with SyncClient(server.address, run_id) as client:
        client.push(weights(), version=1)
        for _ in range(3):
            assert client.pull().transport == "grpc"
        said = [r.message for r in caplog.records if "shared memory" in r.message]
        assert said == [
            f"no shared memory with {server.address}, gRPC is used: the server does not offer it"
        ]
        with pytest.raises(errors.TransportUnavailable, match="can't be mapped here"):
            client.pull(transport="shared-memory")


@pytest.mark.parametrize("place", ["nothing", "other bytes", "a link", "a pipe", "a directory"])
def test_another_file_system_is_noticed(
    sharing: ServerProcess,
    run_id: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a client on another host finds where the server says its challenge is."""
    (real,) = sharing.blob_dir.glob(".challenge-*")
    elsewhere = tmp_path / "challenge"
    if place == "other bytes":
        elsewhere.write_bytes(os.urandom(32))
    elif place == "a link":
        elsewhere.symlink_to(real)
    elif place == "a pipe":
        os.mkfifo(elsewhere)
    elif place == "a directory":
        elsewhere.mkdir()
    opened = os.open
    monkeypatch.setattr(
        "sync_client.shared_memory.os.open",
        lambda path, flags: opened(elsewhere if path == str(real.resolve()) else path, flags),
    )
    with SyncClient(sharing.address, run_id) as client:
        client.push(weights(), version=1)
        assert client.pull().transport == "grpc"


def test_a_version_that_goes_while_it_is_being_mapped(
    sharing: ServerProcess, local: SyncClient
) -> None:
    """Pulls of the newest, while versions come and go as fast as they can."""
    stop = False
    local.push(weights(1), version=1)
    with SyncClient(sharing.address, local.run) as trainer:

        def push() -> None:
            number = 2
            while not stop:
                trainer.push(weights(number), version=number)
                number += 1

        thread = threading.Thread(target=push)
        thread.start()
        try:
            for _ in range(150):
                pulled = local.pull()
                assert same(dict(pulled.state_dict), weights(pulled.version))
                assert pulled.transport == "shared-memory"
        finally:
            stop = True
            thread.join()


def test_the_challenge_goes_with_the_server() -> None:
    with fast_directory() as directory:
        with running_server(directory, environment=ON) as server:
            (first,) = server.blob_dir.glob(".challenge-*")
            assert first.stat().st_mode & 0o777 == 0o640
            server.kill()
            assert first.exists()
            server.start()
            (second,) = server.blob_dir.glob(".challenge-*")
            assert second.name != first.name
            blobs = server.blob_dir
        assert list(blobs.glob(".challenge-*")) == []


def test_copies_into_every_kind_of_tensor(local: SyncClient) -> None:
    """Flat ones by several threads, strided ones through a buffer, tied ones twice."""
    sent = {**weights(2), "tied": torch.arange(12.0).reshape(3, 4)}
    sent["again"] = sent["tied"].clone()
    local.push(sent, version=1)
    flat = {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    flat["again"] = flat["tied"]
    strided = {name: torch.zeros(*t.shape, 2, dtype=t.dtype)[..., 0] for name, t in sent.items()}
    for own in (flat, strided):
        pulled = local.pull(into=own)
        assert pulled.transport == "shared-memory"
        assert same(own, sent)
    part = {"b": torch.zeros(7, dtype=torch.float64), "scalar": torch.zeros(())}
    local.pull(into=part, names=["scalar", "b"])
    assert same(part, {name: sent[name] for name in part})
    local.push({**sent, "again": sent["tied"] + 1}, version=2)
    with pytest.raises(errors.IntoRefused, match="shares memory"):
        local.pull(into=flat)
