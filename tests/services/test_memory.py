"""Gigabytes go through a small server and straight into the explorer's own tensors."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from sync_client import SyncClient
from tests.servers import fast_directory, running_server
from tests.services.sharing import ON

MIB = 1 << 20
EVERY_WAY = {**ON, "WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0"}
SERVER_LIMIT = 256 * 10**6
CLIENT_LIMIT = 100 * 10**6
_LOOK_SECONDS = 0.005

# What both sides do to 290 tensors of 1 GiB together, in a process of their own. They report how
# far their memory rose above what they already held: VmHWM, set back by clear_refs, misses nothing.
PREPARE = """
import json, pathlib, sys, torch
from sync_client import SyncClient

def status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

def growth(work):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = work()
    return status("VmHWM") - before, result

shape = (1808, 1024)
tensors = {f"layer.{i}.weight": torch.empty(shape, dtype=torch.bfloat16) for i in range(290)}
assert sum(tensor.nbytes for tensor in tensors.values()) >= 1 << 30
client = SyncClient(sys.argv[1])
way = sys.argv[2]
warm = {"warm": torch.ones(1 << 20)}  # the machinery is there before we measure
client.push(warm, version=1, transport=way)
client.pull(1, into={"warm": torch.zeros(1 << 20)}, transport=way)
"""
TRAINER = (
    PREPARE
    + """
bits = torch.arange(shape[0] * shape[1], dtype=torch.int32).to(torch.int16).view(shape)
for tensor in tensors.values():
    bits += 4099
    tensor.view(torch.int16).copy_(bits)
del bits
grown, info = growth(lambda: client.push(tensors, version=2, transport=way))
client.close()
print(json.dumps({"growth": grown, "digest": info.digest, "size": info.size}))
"""
)
EXPLORER = (
    PREPARE
    + """
from sync_client.tensors import state_dict_digest
for tensor in tensors.values():
    tensor.fill_(1)
grown, pulled = growth(lambda: client.pull(2, into=tensors, transport=way))
client.close()
digest = state_dict_digest(tensors)  # of what is in the tensors, not of what came
print(json.dumps({"growth": grown, "digest": digest, "size": pulled.wire_bytes}))
"""
)


def needs_memory(gibibytes: float) -> None:
    """Skips the test where the machine does not have that much to spare."""
    free = psutil.virtual_memory().available / (1 << 30)
    if free < gibibytes:
        pytest.skip(f"needs {gibibytes:g} GiB of free memory; there are {free:.1f}")


@contextlib.contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """The largest anonymous memory of a process while the block runs: a list of one, in bytes.

    Mapped blobs do not count, wherever they lie: those pages belong to the file system.
    """
    peak, done = [0], threading.Event()

    def watch() -> None:
        status = Path(f"/proc/{pid}/status")
        while not done.wait(_LOOK_SECONDS):
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            assert found is not None
            peak[0] = max(peak[0], int(found[1]) * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def run(script: str, address: str, transport: str) -> Any:
    """Runs a side; what it reports."""
    done = subprocess.run(
        [sys.executable, "-c", script, address, transport],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.large
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_gibibyte_passes_with_little_memory_on_either_side(transport: str) -> None:
    needs_memory(5)
    with (
        fast_directory(2 << 30) as directory,
        running_server(directory, environment=EVERY_WAY) as server,
        peak_of(server.pid) as peak,
    ):
        pushed = run(TRAINER, server.address, transport)
        pulled = run(EXPLORER, server.address, transport)
    assert pulled["digest"] == pushed["digest"]
    assert pushed["size"] >= 1 << 30
    assert 10 * MIB < peak[0] < SERVER_LIMIT, f"the server took {peak[0] / 1e6:.0f} MB"
    assert pulled["growth"] < CLIENT_LIMIT, f"the explorer took {pulled['growth'] / 1e6:.0f} MB"
    assert pushed["growth"] < CLIENT_LIMIT, f"the trainer took {pushed['growth'] / 1e6:.0f} MB"


@pytest.mark.large
@pytest.mark.parametrize("transport", ["grpc", "http", "shared-memory"])
def test_one_tensor_of_more_than_four_gibibytes(transport: str) -> None:
    needs_memory(10)
    size = (1 << 32) + 4099
    # Pages that nobody wrote take no memory, and the interesting places are at the borders.
    source = torch.from_numpy(np.zeros(size, dtype=np.uint8))
    places = [0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, size - 1]
    for value, place in enumerate(places, start=1):
        source[place] = value
    with (
        fast_directory(5 << 30) as directory,
        running_server(directory, environment=EVERY_WAY) as server,
        SyncClient(server.address) as client,
        peak_of(server.pid) as peak,
    ):
        state_dict = {"huge": source, "small": torch.ones(3)}
        info = client.push(state_dict, version=1, transport=transport)
        del state_dict
        del source
        into = {"huge": torch.empty(size, dtype=torch.uint8), "small": torch.zeros(3)}
        pulled = client.pull(1, into=into, transport=transport)
        assert info.size > size
        assert pulled.wire_bytes == (0 if transport == "shared-memory" else info.size)
        # The digest was compared; these would show a wrong comparison of it.
        assert [int(into["huge"][place]) for place in places] == [1, 2, 3, 4, 5, 6]
        assert into["huge"][(1 << 32) + 1 : size - 1].count_nonzero() == 0
        assert client.tensors(1)[1].size == size
    assert peak[0] < SERVER_LIMIT
