"""`weightsync check` finds what happened to stored bytes, with the server running or not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from sync_client import SyncClient
from tests.cli.rooms import read_only
from tests.cli.runner import Command, Ended, weightsync
from tests.servers import running_server

FINDING_KEYS = {"run", "version", "state", "size", "digest", "file", "problem", "action"}


@dataclass(frozen=True)
class Stored:
    """A server's directories, with versions 1 and 2 in run "default"."""

    data_dir: Path
    blob_dir: Path

    def check(self, *options: str) -> Ended:
        """Runs the command on them."""
        where = ("--data-dir", self.data_dir, "--blob-dir", self.blob_dir)
        return weightsync("check", *where, *options)

    def file(self, number: int) -> Path:
        """The blob of a version."""
        (path,) = self.blob_dir.glob(f"default/{number}-*.safetensors")
        return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """What a server left that was stopped."""
    directory = tmp_path_factory.mktemp("stored")
    with running_server(directory) as server, SyncClient(server.address) as client:
        for number in (1, 2):
            tensors = {
                "weight": numpy.random.default_rng(number).random(100_000),
                "bias": numpy.arange(7),
            }
            save_file(tensors, directory / "model.safetensors")
            client.push_file(directory / "model.safetensors", number)
    return Stored(server.data_dir, server.blob_dir)


@pytest.fixture
def stored(original: Stored, tmp_path: Path) -> Stored:
    """A copy to do harm to."""
    copy = Stored(tmp_path / "data", tmp_path / "blobs")
    shutil.copytree(original.data_dir, copy.data_dir)
    shutil.copytree(original.blob_dir, copy.blob_dir)
    return copy


def test_all_is_well(stored: Stored, tmp_path: Path) -> None:
    before = sorted(stored.data_dir.iterdir())
    offline = stored.check("--json")
    assert offline.code == 0, offline
    assert set(offline.json) == {"data_dir", "blob_dir", "ok", "versions"}
    assert [set(found) for found in offline.json["versions"]] == [FINDING_KEYS] * 2
    assert [found["version"] for found in offline.json["versions"]] == [1, 2]
    assert {found["state"] for found in offline.json["versions"]} == {"ok"}
    assert sorted(stored.data_dir.iterdir()) == before, "it leaves nothing behind"

    with running_server(
        tmp_path / "server", data_dir=stored.data_dir, blob_dir=stored.blob_dir
    ) as server:
        assert stored.check("--json").json == offline.json, "beside a running server"
        server.kill()
        assert stored.check("--json").json == offline.json, "after a crash"


def test_a_flipped_bit(stored: Stored) -> None:
    file = stored.file(1)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = stored.check("--json")
    found.failed(1, "1 of 2", "damaged")
    first, second = found.json["versions"]
    assert (first["version"], first["state"], second["state"]) == (1, "damaged", "ok")
    assert "'weight'" in first["problem"]
    assert "weightsync delete 1 --run default" in first["action"]
    assert "newer" not in first["action"]
    shown = stored.check()
    shown.failed(1)
    assert "damaged  default version 1" in shown.out
    assert "what to do: " in shown.out


@pytest.mark.parametrize("damage", ["missing", "short", "header", "renamed"])
def test_other_damage(stored: Stored, damage: str) -> None:
    file = stored.file(2)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        changed = {
            "short": data[:-1],
            "header": data[:8] + b"[" + data[9:],
            "renamed": data.replace(b'"bias"', b'"bios"', 1),
        }
        file.write_bytes(changed[damage])
    found = stored.check("--json")
    found.failed(1, "1 of 2")
    first, second = found.json["versions"]
    assert first["state"] == "ok"
    assert second["state"] == ("missing" if damage == "missing" else "damaged")
    assert "push a newer version, then 'weightsync delete 2" in second["action"]


def test_it_needs_no_more_than_to_read(stored: Stored) -> None:
    where = ("--data-dir", stored.data_dir, "--blob-dir", stored.blob_dir)
    ended = Command("check", *where, prefix=read_only(stored.data_dir)).end()
    assert ended.code == 0, ended
    assert ended.out.count("ok ") == 2


def test_what_is_no_servers_directory(stored: Stored, tmp_path: Path) -> None:
    weightsync("check", "--data-dir", tmp_path).failed(1, str(tmp_path), "--data-dir")
    assert list(tmp_path.glob("*.sqlite3*")) == []
    (tmp_path / "state.sqlite3").write_text("no database, but long enough to be looked at" * 100)
    weightsync("check", "--data-dir", tmp_path).failed(1, "state.sqlite3", "not a database")
    where = ("--data-dir", stored.data_dir, "--blob-dir", tmp_path / "elsewhere")
    weightsync("check", *where).failed(1, "2 of 2", "--blob-dir")
    stored.check("--run", "elsewhere").failed(1, "'elsewhere'")
    assert stored.check("--run", "default").code == 0
