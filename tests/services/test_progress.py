"""Progress through the real server: the SDK, plain gRPC, grpcurl, and a crash."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import grpc
import pytest

from sync_client import AsyncSyncClient, SyncClient, errors
from tests.servers import ServerProcess, running_server
from tests.services.grpcurl import GRPCURL, grpcurl
from tests.services.raw import refused, unchanged
from weightsync.v1 import progress_pb2, progress_pb2_grpc

needs_grpcurl = pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed here")

TASKSETS: list[dict[str, Any]] = [
    {"index": 3, "epoch": 0, "big": 2**53, "small": -(2**53), "share": 0.25, "huge": 1e300},
    {"order": [4, 1, 2], "nested": {"seed": 7, "none": None, "on": True, "text": "é\n"}, "": []},
    {},
]
RECORDS: dict[str, dict[str, Any]] = {
    "trainer": {
        "current_step": 2**62,
        "experience_index": 0,
        "sample_strategy_state": {"cursor": 12, "weights": [0.5, 1]},
    },
    "explorer": {
        "current_task_index": 17,
        "current_step": 5,
        "taskset_states": TASKSETS,
        "server_url": "http://10.0.0.7:8000",
    },
    "stage": {"current_stage_index": 2},
}


def types(value: Any) -> Any:
    """The same shape with types in place of values: 1 == 1.0 == True."""
    if isinstance(value, dict):
        return {key: types(item) for key, item in value.items()}
    return [types(item) for item in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_comes_back_as_it_was_saved(client: SyncClient, kind: str) -> None:
    etag = client.save_progress(kind, **RECORDS[kind])
    found = client.load_progress(kind)
    assert (found.name, found.etag, found.record) == (kind, etag, RECORDS[kind])
    assert types(found.record) == types(RECORDS[kind])  # integers are integers
    # What was loaded can be saved again, under a name of its own, too.
    client.save_progress("mine", kind=kind, **found.record)
    assert client.load_progress("mine").record == RECORDS[kind]


def test_what_was_not_saved_is_zero_or_absent(client: SyncClient) -> None:
    client.save_progress("trainer", current_step=1, experience_index=9)
    client.save_progress("trainer")  # whole, and not only what is given
    assert client.load_progress("trainer").record == {"current_step": 0}
    client.save_progress("explorer", current_step=3, server_url=None)
    assert client.load_progress("explorer").record == {
        "current_task_index": 0,
        "current_step": 3,
        "taskset_states": [],
        "server_url": "",
    }


def test_who_has_a_lease_saves_under_its_role(client: SyncClient) -> None:
    trainer, explorer = client.register("trainer"), client.register("explorer", "e0")
    trainer.save_progress(current_step=4)
    explorer.save_progress(current_step=6, current_task_index=1)
    explorer.save_progress("e0", current_step=5)
    assert client.load_progress("trainer").record["current_step"] == 4
    assert client.load_progress("explorer").record["current_step"] == 6
    assert client.load_progress("e0").record["current_step"] == 5
    with pytest.raises(errors.InvalidArgument, match="explorer record"):
        explorer.save_progress("trainer", current_step=5)


def test_a_replaced_trainer_cannot_take_its_successor_back(
    client: SyncClient, server: ServerProcess
) -> None:
    old = client.register("trainer")
    old.save_progress(current_step=50)
    with SyncClient(server.address, run=client.run) as other:
        new = other.register("trainer")
        etag = new.save_progress(current_step=41)
        with pytest.raises(errors.StaleGeneration):
            old.save_progress(current_step=51)
        found = other.load_progress("trainer")
        assert (found.etag, found.record["current_step"]) == (etag, 41)


# --- compare and set


def test_an_etag_that_is_no_longer_there_is_refused(client: SyncClient) -> None:
    first = client.save_progress("trainer", current_step=1)
    second = client.save_progress("trainer", current_step=2, etag=first)
    with pytest.raises(errors.EtagMismatch) as caught:
        client.save_progress("trainer", current_step=3, etag=first)
    assert caught.value.metadata["etag"] == second
    with pytest.raises(errors.EtagMismatch):
        client.save_progress("stage", current_stage_index=1, etag=first)
    assert client.load_progress("trainer").record["current_step"] == 2


async def test_of_two_concurrent_writers_exactly_one_wins(
    server: ServerProcess, run_id: str
) -> None:
    async with (
        AsyncSyncClient(server.address, run=run_id) as one,
        AsyncSyncClient(server.address, run=run_id) as two,
    ):
        etag = await one.save_progress("trainer", current_step=0)
        wins = {"one": 0, "two": 0}
        for step in range(1, 101):
            calls = [
                one.save_progress("trainer", current_step=step, experience_index=1, etag=etag),
                two.save_progress("trainer", current_step=step, experience_index=2, etag=etag),
            ]
            if step % 2:
                calls.reverse()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            won = [answer for answer in answers if isinstance(answer, str)]
            lost = [answer for answer in answers if isinstance(answer, errors.EtagMismatch)]
            assert (len(won), len(lost)) == (1, 1), answers
            found = await one.load_progress("trainer")
            assert found.etag == won[0]
            assert found.record["current_step"] == step
            wins["one" if found.record["experience_index"] == 1 else "two"] += 1
            etag = won[0]
        assert all(wins.values())


async def test_no_increment_is_lost_by_writers_that_read_and_try_again(
    server: ServerProcess, run_id: str
) -> None:
    async def count(times: int) -> None:
        async with AsyncSyncClient(server.address, run=run_id) as client:
            while times:
                found = await client.load_progress("trainer")
                step = found.record["current_step"] + 1
                try:
                    await client.save_progress("trainer", current_step=step, etag=found.etag)
                except errors.EtagMismatch:
                    continue
                times -= 1

    async with AsyncSyncClient(server.address, run=run_id) as client:
        await client.save_progress("trainer", current_step=0)
        await asyncio.gather(*(count(20) for _ in range(4)))
        assert (await client.load_progress("trainer")).record["current_step"] == 80


# --- refused


def test_what_was_never_saved_is_not_found(client: SyncClient) -> None:
    with pytest.raises(errors.RunNotFound):
        client.load_progress("trainer")
    client.save_progress("explorer", current_step=1)
    with pytest.raises(errors.ProgressNotFound, match="trainer"):
        client.load_progress("trainer")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("trainer", {"kind": "explorer", "current_step": 1}, "holds no explorer record"),
    ("stage", {"kind": "trainer", "current_step": 1}, "holds no trainer record"),
    ("mine", {"current_step": 1}, "record 'mine'"),
    ("trainer", {"current_task_index": 1}, "have no 'current_task_index'"),
    ("trainer", {"current_step": 2**63}, "current_step"),
    ("trainer", {"current_step": 1.5}, "current_step"),
    ("trainer", {"sample_strategy_state": {"a": [2**53 + 1]}}, r"state\.a\[0\] = 9007199254740993"),
    ("trainer", {"sample_strategy_state": {"a": -(2**53) - 1}}, r"state\.a = -9007199254740993"),
    ("trainer", {"sample_strategy_state": {"a": {"b": math.nan}}}, r"state\.a\.b = nan"),
    ("trainer", {"sample_strategy_state": {"a": -math.inf}}, r"state\.a = -inf"),
    ("trainer", {"sample_strategy_state": {1: 2}}, "key 1 is no text"),
    ("trainer", {"sample_strategy_state": {"a": object()}}, r"state\.a: a object is no plain data"),
    ("trainer", {"sample_strategy_state": [1]}, "a list is no mapping"),
    ("explorer", {"taskset_states": [{"i": math.inf}]}, "i = inf"),
    ("explorer", {"taskset_states": {"i": 1}}, "a str is no mapping"),
    ("trainer", {"sample_strategy_state": {"a": "x" * (1 << 20)}}, r"bytes: 1048576 are allowed"),
    ("trainer", {"sample_strategy_state": {"a": "x" * (5 << 20)}}, r"bytes: 1048576 are allowed"),
]


@pytest.mark.parametrize(("name", "record", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_record_is_refused_by_name(
    server: ServerProcess,
    channel: grpc.Channel,
    client: SyncClient,
    name: str,
    record: dict[str, Any],
    text: str,
) -> None:
    client.save_progress(name, kind=name if name in RECORDS else "trainer")
    with (
        unchanged(server, channel, client.run),
        pytest.raises(errors.InvalidArgument, match=text),
    ):
        client.save_progress(name, **record)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-x", "x" * 129])
def test_names_that_are_none_are_refused(client: SyncClient, name: str) -> None:
    with pytest.raises(errors.InvalidName):
        client.save_progress(name, kind="trainer", current_step=1)
    with pytest.raises(errors.InvalidName):
        client.load_progress(name)


def test_a_stranger_is_refused_by_the_server_itself(
    server: ServerProcess, channel: grpc.Channel, client: SyncClient, run_id: str
) -> None:
    client.save_progress("trainer", current_step=1)
    stub = progress_pb2_grpc.ProgressServiceStub(channel)
    name = f"runs/{run_id}/progress/trainer"
    good = progress_pb2.Progress(name=name, trainer=progress_pb2.TrainerProgress(current_step=2))
    nameless = progress_pb2.Progress(trainer=good.trainer)
    stage = progress_pb2.Progress(name=name, stage=progress_pb2.StageProgress())
    nobody: dict[str, Any] = {"worker": f"runs/{run_id}/workers/t", "generation": 1}
    cases: list[tuple[progress_pb2.Progress, dict[str, Any], str]] = [
        (progress_pb2.Progress(name=name), {}, "INVALID_ARGUMENT"),
        (nameless, {}, "INVALID_NAME"),
        (stage, {}, "INVALID_ARGUMENT"),
        (good, {"worker": "runs/another/workers/t"}, "INVALID_ARGUMENT"),
        (good, nobody, "WORKER_NOT_FOUND"),
    ]
    with unchanged(server, channel, run_id):
        for progress, fields, reason in cases:
            request = progress_pb2.SaveProgressRequest(progress=progress, **fields)
            assert refused(stub.SaveProgress, request).reason == reason


def test_a_retry_with_the_same_id_is_applied_once(
    server: ServerProcess, channel: grpc.Channel, run_id: str
) -> None:
    stub = progress_pb2_grpc.ProgressServiceStub(channel)
    request = progress_pb2.SaveProgressRequest(
        progress=progress_pb2.Progress(
            name=f"runs/{run_id}/progress/stage",
            stage=progress_pb2.StageProgress(current_stage_index=1),
        ),
        request_id="once",
    )
    first = stub.SaveProgress(request)
    with unchanged(server, channel, run_id):
        assert stub.SaveProgress(request) == first


# --- grpcurl, and a crash


@needs_grpcurl
def test_grpcurl_saves_and_loads(server: ServerProcess, client: SyncClient) -> None:
    name = f"runs/{client.run}/progress/explorer"
    service = "weightsync.v1.ProgressService"
    states = [{"index": 3, "order": [2, 1]}]
    record = {"current_step": "9", "taskset_states": states, "server_url": "http://e0"}

    def save(etag: str) -> Any:
        request = {"progress": {"name": name, "explorer": record, "etag": etag}}
        return grpcurl("-d", json.dumps(request), server.address, f"{service}/SaveProgress")

    saved = json.loads(save("").stdout)["progress"]
    assert client.load_progress("explorer").record["taskset_states"] == states
    loaded = grpcurl("-d", json.dumps({"name": name}), server.address, f"{service}/GetProgress")
    assert json.loads(loaded.stdout)["progress"] == saved
    newer = client.save_progress("explorer", current_step=10, etag=saved["etag"])
    late = save(saved["etag"])
    assert "Code: Aborted" in late.stderr
    assert '"reason":"ETAG_MISMATCH"' in late.stderr
    assert f'"etag":"{newer}"' in late.stderr
    missing = json.dumps({"name": f"runs/{client.run}/progress/trainer"})
    done = grpcurl("-d", missing, server.address, f"{service}/GetProgress")
    assert "Code: NotFound" in done.stderr
    assert '"reason":"PROGRESS_NOT_FOUND"' in done.stderr


def test_what_was_acknowledged_survives_a_crash(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as server,
        SyncClient(server.address, run="job", retry_for=20.0) as client,
    ):
        etags = {kind: client.save_progress(kind, **record) for kind, record in RECORDS.items()}
        saved = {kind: client.load_progress(kind) for kind in RECORDS}
        server.restart()  # kill -9 first
        assert {kind: client.load_progress(kind) for kind in RECORDS} == saved
        # The etag still says that nobody saved since.
        newer = client.save_progress("stage", current_stage_index=3, etag=etags["stage"])
        assert newer not in etags.values()
        with pytest.raises(errors.EtagMismatch):
            client.save_progress("stage", current_stage_index=4, etag=etags["stage"])
