"""A server that is pointed at the wrong place, or whose blobs are gone, loses nothing more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient, errors
from tests.servers import running_server

WEIGHTS = {"w": torch.arange(4)}


def _serve(data_dir: Path, blob_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sync_server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", str(data_dir), "--blob-dir", str(blob_dir), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("options", [(), ("--state-store", "memory")])
def test_blobs_of_another_data_directory_are_not_swept(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with running_server(tmp_path / "a") as server, SyncClient(server.address) as client:
        client.push(WEIGHTS, version=1)
        blobs = server.blob_dir
    before = sorted(blobs.glob("*/*"))
    refused = _serve(tmp_path / "other", blobs, *options)
    assert refused.returncode == 1
    assert "of another data directory" in refused.stderr
    assert sorted(blobs.glob("*/*")) == before
    with running_server(tmp_path / "a") as server, SyncClient(server.address) as client:
        assert torch.equal(client.pull(1).state_dict["w"], WEIGHTS["w"])


def test_what_a_memory_server_left_behind_is_swept(tmp_path: Path) -> None:
    with running_server(tmp_path, options=["--state-store", "memory"]) as server:
        with SyncClient(server.address) as client:
            client.push(WEIGHTS, version=1)
        server.kill()
        server.start()
        with SyncClient(server.address) as client:
            assert client.versions() == []
        assert list(server.blob_dir.glob("*/*.safetensors")) == []


def test_versions_whose_bytes_are_gone_are_not_offered(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with SyncClient(server.address) as client:
            trainer = client.register("trainer", lease=1.0)
            trainer.push(WEIGHTS, version=50)
        server.kill()
        for blob in server.blob_dir.glob("*/*.safetensors"):
            blob.unlink()  # as a reboot does to a tmpfs
        server.start()
        with SyncClient(server.address) as client:
            status = client.status()
            assert status.latest_version is None
            assert client.versions() == []
            with pytest.raises(errors.VersionRetired, match="damaged"):
                client.pull(50)
            client.push(WEIGHTS, version=41)
            # Who holds 50 is woken, though 41 is not above it.
            result = client.wait(after=50, timeout=5)
            assert (result.version, result.rewound) == (41, True)
    assert "version lost" in server.log


def test_a_second_server_on_the_same_data_directory_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        refused = _serve(server.data_dir, tmp_path / "other-blobs")
        assert refused.returncode == 1
        assert "another server uses the data directory" in refused.stderr
