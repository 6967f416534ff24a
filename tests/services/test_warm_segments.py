"""Whose pages the next push is written into: a server makes them before, and uses them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient
from sync_server.storage.filesystems import is_tmpfs
from tests.servers import ServerProcess, fast_directory, running_server
from tests.services.sharing import ON
from tests.until import until

_MIB = 1 << 20
SIZE = 20 * _MIB
TRANSPORTS = ["grpc", "http", "shared-memory"]


def weights(number: int) -> dict[str, torch.Tensor]:
    """Enough to be worth a spare."""
    return {"w": torch.full((SIZE // 4,), float(number))}


@pytest.fixture(scope="module")
def roomy() -> Iterator[ServerProcess]:
    """A server on tmpfs with every way open."""
    environment = {**ON, "WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0"}
    with (
        fast_directory(10 * SIZE) as directory,
        running_server(directory, environment=environment) as server,
    ):
        if not is_tmpfs(directory):
            pytest.skip("segments are used again on tmpfs only")
        yield server


def files(server: ServerProcess, run_id: str) -> dict[str, int]:
    """Name -> inode of what lies in the run's folder."""
    found = ((Path(name), inode) for name, (inode, _) in server.blobs().items())
    return {path.name: inode for path, inode in found if path.parent.name == run_id}


def spare(server: ServerProcess, run_id: str) -> int | None:
    """The inode of the run's spare, once all of it is there."""
    found = [i for name, i in files(server, run_id).items() if name.endswith(".spare")]
    return found[0] if found else None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_next_push_finds_its_pages(roomy: ServerProcess, run_id: str, transport: str) -> None:
    with SyncClient(roomy.address, run_id) as client:
        trainer = client.register("trainer")
        inodes = []
        for number in range(1, 9):
            made = spare(roomy, run_id)
            trainer.push(weights(number), number, transport=transport)
            (inode,) = (
                inode
                for name, inode in files(roomy, run_id).items()
                if name.startswith(f"{number}-") and name.endswith(".safetensors")
            )
            if number > 1:
                assert inode == made
            inodes.append(inode)
            until(lambda: spare(roomy, run_id))
            assert torch.equal(client.pull(number).state_dict["w"], weights(number)["w"])
        assert len(set(inodes)) == 3  # two versions are kept, and one is written
        assert inodes[3:] == inodes[:5]


def test_a_push_without_a_lease_is_the_last_one(roomy: ServerProcess, run_id: str) -> None:
    """Somebody pushes a file by hand: room for a second one would only be taken away."""
    with SyncClient(roomy.address, run_id) as client:
        client.push(weights(1), 1)
        client.push(weights(2), 2)
        assert spare(roomy, run_id) is None
        assert len(files(roomy, run_id)) == 2


def test_one_kept_version_takes_room_for_two(run_id: str) -> None:
    """What is served, and what is written next: never more, whenever one looks."""
    with (
        fast_directory(10 * SIZE) as directory,
        running_server(directory, options=["--keep-versions", "1"]) as server,
        SyncClient(server.address, run_id) as client,
    ):
        if not is_tmpfs(directory):
            pytest.skip("segments are used again on tmpfs only")
        trainer = client.register("trainer")
        seen: list[int] = []

        def look(done: int, total: int) -> None:
            seen.append(sum(size for _, size in server.blobs().values()))

        for number in range(1, 6):
            trainer.push(weights(number), number, progress=look)
            until(lambda: spare(server, run_id))
            look(0, 0)
        assert SIZE < max(seen) < 2.1 * SIZE
        server.assert_no_faults()
