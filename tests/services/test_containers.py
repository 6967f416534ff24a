"""Shared memory between containers: other processes, mounts and users of memory, one volume.

A container is stood in for by what the kernel makes one of: `unshare` with mount, pid and ipc
namespaces of its own. The network is the host's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient
from sync_client.tensors import state_dict_digest
from tests.servers import ServerProcess

_NAMESPACES = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
_WORK = """
import json, os, sys, torch
from sync_client import SyncClient
from sync_client.tensors import state_dict_digest
address, run = sys.argv[1:]
with SyncClient(address, run) as client:
    pulled = client.pull()
    digest = state_dict_digest(pulled.state_dict)
    weights = {name: tensor + 1 for name, tensor in pulled.state_dict.items()}
    trainer = client.register("trainer")
    trainer.push(weights, 2, transport=pulled.transport)
    print(json.dumps({"pid": os.getpid(), "transport": pulled.transport, "digest": digest}))
"""


def contained(server: ServerProcess, run_id: str, before: str) -> dict[str, object]:
    """What a client says that runs in a container, after the shell line `before`."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    command = [
        *_NAMESPACES,
        "sh",
        "-ec",
        f'{before}; exec "$@"',
        "sh",
        sys.executable,
        "-c",
        _WORK,
    ]
    done = subprocess.run(
        [*command, server.address, run_id],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    if "unshare" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("no namespaces for this user")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_shared_volume(sharing: ServerProcess, local: SyncClient) -> None:
    sent = {"w": torch.arange(1_000_000, dtype=torch.float32)}
    info = local.push(sent, 1)
    found = contained(sharing, local.run, ":")
    assert found["pid"] != sharing.pid
    assert (found["transport"], found["digest"]) == ("shared-memory", info.digest)
    again = local.pull(2, transport="grpc")
    assert torch.equal(again.state_dict["w"], sent["w"] + 1)


def test_a_volume_that_is_not_there(sharing: ServerProcess, local: SyncClient) -> None:
    """Another file system lies at the server's path: bytes take another way by themselves."""
    sent = {"w": torch.arange(1_000_000, dtype=torch.float32)}
    info = local.push(sent, 1)
    found = contained(sharing, local.run, f"mount -t tmpfs none '{sharing.blob_dir}'")
    assert (found["transport"], found["digest"]) == ("grpc", info.digest)
    assert state_dict_digest(dict(local.pull(2).state_dict)) == local.versions()[0].digest
