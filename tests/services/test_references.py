"""Versions without bytes: a checkpoint, an external reference, a process group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from sync_client import SyncClient, VersionSource, errors
from tests.servers import ServerProcess, running_server
from tests.services.raw import refused, unchanged
from weightsync.v1 import weights_pb2, weights_pb2_grpc

PATH = "/checkpoints/global_step_3/actor"


def test_a_checkpoint_wakes_who_waits_and_says_where_it_is(client: SyncClient) -> None:
    trainer = client.register("trainer")
    info = trainer.publish(3, checkpoint_path=PATH)
    assert (info.version, info.source, info.reference) == (3, VersionSource.CHECKPOINT, PATH)
    assert client.wait_version(after=2, timeout=0) == 3
    status = client.status()
    assert status.latest == info
    assert info.pushed_by == trainer.name
    assert client.versions() == [info]


def test_an_external_reference_is_given_back_as_it_is(client: SyncClient) -> None:
    reference = "tinker://job-17/sampler ü"
    client.publish(1, external_reference=reference)
    latest = client.status().latest
    assert latest is not None
    assert (latest.source, latest.reference) == (VersionSource.EXTERNAL, reference)


def test_what_has_no_bytes_here_can_not_be_pulled(client: SyncClient, tmp_path: Path) -> None:
    client.publish(1, checkpoint_path=PATH)
    for attempt in (client.pull, client.tensors, lambda: client.pull_file(tmp_path / "out")):
        with pytest.raises(errors.VersionElsewhere, match=PATH):
            attempt()
    with pytest.raises(errors.VersionElsewhere):
        list(client.iter_tensors(1))
    assert list(tmp_path.iterdir()) == []


def test_a_reference_is_a_version_like_any_other(client: SyncClient) -> None:
    weights = {"a": torch.arange(4)}
    client.publish(1, external_reference="one")
    client.push(weights, version=2)
    client.publish(3, external_reference="three")
    assert [info.version for info in client.versions()] == [3, 2]  # retention counts them
    assert torch.equal(client.pull(2).state_dict["a"], weights["a"])
    assert client.publish(3, external_reference="three").revision == client.versions()[0].revision
    with pytest.raises(errors.VersionExists):
        client.publish(3, external_reference="another")
    with pytest.raises(errors.VersionExists):
        client.push(weights, version=3)
    with pytest.raises(errors.VersionNotNewer):
        client.publish(1, external_reference="one")
    client.push(weights, version=4)
    client.pin(3)
    client.push(weights, version=5)
    assert [info.version for info in client.versions()] == [5, 4, 3]
    client.unpin(3)
    client.delete(4)
    assert [info.version for info in client.versions()] == [5]


def test_only_who_may_push_may_publish(client: SyncClient) -> None:
    first = client.register("trainer", name="one")
    with pytest.raises(errors.TrainerActive):
        client.publish(1, external_reference="x")
    explorer = client.register("explorer")
    with pytest.raises(errors.RoleMismatch):
        explorer.publish(1, external_reference="x")
    client.register("trainer", name="one")
    with pytest.raises(errors.StaleGeneration):
        first.publish(1, external_reference="x")
    assert client.status().latest_version is None


def test_a_trainer_that_went_back_to_the_same_path_is_noticed(client: SyncClient) -> None:
    """The directory of step 3 was written again, with other weights."""
    client.register("trainer").publish(3, checkpoint_path=PATH)
    held = client.wait(after=2, timeout=0)
    explorer = client.register("explorer")
    client.register("trainer").publish(3, checkpoint_path=PATH)
    again = explorer.wait(after=3, timeout=0, digest=held.digest)
    assert again.digest != held.digest
    assert (again.reached, again.version, again.rewound) == (True, 3, True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "source"),
        ({"nothing_new": False}, "source"),
        ({"external_reference": "x" * 4097}, "4096"),
        ({"checkpoint_path": "a\nb"}, "printable"),
        ({"checkpoint_path": "a\0b"}, "printable"),
    ],
)
def test_nonsense_is_refused(
    server: ServerProcess, pushed: str, channel: grpc.Channel, fields: dict[str, Any], says: str
) -> None:
    request = weights_pb2.PublishWeightVersionRequest(name=f"{pushed}/weightVersions/9", **fields)
    stub = weights_pb2_grpc.WeightServiceStub(channel)
    with unchanged(server, channel, pushed.removeprefix("runs/")):
        refusal = refused(stub.PublishWeightVersion, request)
    assert refusal.reason == "INVALID_ARGUMENT"
    assert says in refusal.text


def test_it_is_there_after_kill_9(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with SyncClient(server.address, "job") as client:
            client.publish(1, external_reference="one")
            published = client.publish(2, checkpoint_path=PATH)
        server.kill()
        server.start()
        with SyncClient(server.address, "job") as client:
            assert client.versions()[0] == published
            client.push({"a": torch.ones(2)}, version=3)


def test_a_retired_reference_has_no_file_to_delete(server: ServerProcess, run_id: str) -> None:
    with SyncClient(server.address, run_id) as client:
        for number in range(1, 6):
            client.publish(number, checkpoint_path=f"/job/global_step_{number}/actor")
        assert [info.version for info in client.versions()] == [5, 4]
    assert "blob not deleted" not in server.log
