"""A server that holds a stream open and does nothing: its caller is let go in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import torch

from sync_client import SyncClient, errors, stalls
from weightsync.v1 import weights_pb2, weights_pb2_grpc


class Stuck(weights_pb2_grpc.WeightServiceServicer):
    """Takes calls and never finishes them."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def UploadWeights(self, request_iterator: Any, context: Any) -> Any:
        """Reads all of it, and says nothing."""
        for _ in request_iterator:
            pass
        self.released.wait(60)
        return weights_pb2.UploadWeightsResponse()

    def DownloadWeights(self, request: Any, context: Any) -> Any:
        """Says what will come, and sends nothing."""
        header = weights_pb2.DownloadWeightsHeader(size_bytes=1000)
        yield weights_pb2.DownloadWeightsResponse(header=header)
        self.released.wait(60)


@pytest.fixture
def stuck() -> Iterator[str]:
    """Where such a server listens."""
    servicer = Stuck()
    server = grpc.server(ThreadPoolExecutor(8))
    weights_pb2_grpc.add_WeightServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    servicer.released.set()
    server.stop(None).wait()


@pytest.mark.parametrize("call", ["push", "pull", "pull_file"])
def test_a_stream_that_does_not_go_on_is_given_up(
    call: str, stuck: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.5)
    with SyncClient(stuck, retry_for=0.2) as client:
        works: dict[str, Callable[[], object]] = {
            "push": lambda: client.push({"a": torch.ones(3)}, version=1),
            "pull": lambda: client.pull(1),
            "pull_file": lambda: client.pull_file(tmp_path / "x", 1),
        }
        started = time.monotonic()
        with pytest.raises(errors.ServerUnavailable, match="does not go on"):
            works[call]()
        assert 0.5 <= time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []


def test_a_slow_consumer_is_not_taken_for_a_stuck_server(
    client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dict = {f"layer.{index}": torch.full((1 << 20,), float(index)) for index in range(16)}
    client.push(state_dict, version=1)
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.2)
    found = {}
    for name, tensor in client.iter_tensors(1):
        found[name] = tensor
        if len(found) in (1, 8):
            assert client.wait_version(after=1, timeout=1.0) is None  # a busy second
    assert all(found[name].equal(tensor) for name, tensor in state_dict.items())
