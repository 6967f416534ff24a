"""The configuration check through the real server: SDK, grpcurl, and a crash."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_client import SyncClient, errors
from sync_client.progress import ConfigDifference
from tests.servers import ServerProcess, running_server
from tests.services.grpcurl import GRPCURL, grpcurl
from tests.services.raw import refused, unchanged
from weightsync.v1 import runs_pb2, runs_pb2_grpc

FIRST: dict[str, Any] = {
    "algorithm": {"name": "grpo", "lr": 1e-6, "clip": [0.2, 0.28]},
    "cluster": {"nodes": [{"gpus": 8}, {"gpus": 8}]},
    "monitor": {"api_key": "hunter2", "project": "p"},
    "resume": None,
}


def changed(**values: Any) -> dict[str, Any]:
    """The first configuration with other values, under keys such as algorithm__lr."""
    config: dict[str, Any] = json.loads(json.dumps(FIRST))
    for key, value in values.items():
        *path, last = key.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def test_the_first_is_kept_the_same_accepted_and_another_refused(
    server: ServerProcess, channel: grpc.Channel, client: SyncClient
) -> None:
    assert client.check_config(FIRST) == []
    other = changed(algorithm__lr=2e-6, algorithm__clip=[0.2], monitor__api_key="hunter3")
    with unchanged(server, channel, client.run):
        assert client.check_config(FIRST) == []
        assert client.check_config(dict(reversed(FIRST.items()))) == []
        with pytest.raises(errors.ConfigMismatch) as caught:
            client.check_config(other)
    assert caught.value.metadata == {
        "algorithm.clip[1]": "0.28 -> None",
        "algorithm.lr": "1e-06 -> 2e-06",
        "monitor.api_key": "'***' -> '***'",
        "reason": "CONFIG_MISMATCH",
    }
    assert "algorithm.lr: 1e-06 -> 2e-06" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_changes_are_accepted_when_told_to(client: SyncClient) -> None:
    assert client.check_config(FIRST, accept_changes=True) == []
    other = changed(algorithm__name="ppo", resume={"step": 40}, monitor__api_key="hunter3")
    assert client.check_config(other, accept_changes=True) == [
        ConfigDifference("algorithm.name", "grpo", "ppo"),
        ConfigDifference("monitor.api_key", "***", "***"),
        ConfigDifference("resume", None, None),
        ConfigDifference("resume.step", None, 40),
    ]
    assert client.check_config(other) == []
    with pytest.raises(errors.ConfigMismatch):
        client.check_config(FIRST)


def test_runs_do_not_share_a_configuration(client: SyncClient, server: ServerProcess) -> None:
    client.check_config(FIRST)
    with SyncClient(server.address, run=f"{client.run}-b") as other:
        assert other.check_config({"another": 1}) == []


def test_of_two_first_ones_one_is_kept(client: SyncClient, server: ServerProcess) -> None:
    with SyncClient(server.address, run=client.run) as other:
        client.check_config({"who": "one"})
        with pytest.raises(errors.ConfigMismatch, match="'one' -> 'two'"):
            other.check_config({"who": "two"})


def test_a_watcher_is_told_that_it_changed(client: SyncClient) -> None:
    client.check_config(FIRST)
    events = client.watch(after_revision=client.status().revision)
    client.check_config(changed(resume=1), accept_changes=True)
    assert next(events).kind == "config_changed"


def test_hundreds_of_differences_say_how_many_they_are(client: SyncClient) -> None:
    client.check_config({f"{'section.' * 9}key{index}": index for index in range(300)})
    with pytest.raises(errors.ConfigMismatch, match="in 300 keys") as caught:
        client.check_config({f"{'section.' * 9}key{index}": -1 - index for index in range(300)})
    # Not all of them have room, but what is there is whole, long keys too.
    found = {key: value for key, value in caught.value.metadata.items() if key != "reason"}
    assert len(found) > 10
    for key, value in found.items():
        index = int(key.removesuffix('"]').rpartition("key")[2])
        assert key == f'["{"section." * 9}key{index}"]'
        assert value == f"{index} -> {-1 - index}"


NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(config=st.dictionaries(st.text(max_size=5), VALUES, max_size=4), extra=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_any_plain_data_is_the_same_over_the_wire(
    server: ServerProcess, config: dict[str, Any], extra: int
) -> None:
    with SyncClient(server.address, run="any-config") as client:
        client.check_config(config, accept_changes=True)
        assert client.check_config(config) == []
        with pytest.raises(errors.ConfigMismatch) as caught:
            client.check_config({**config, "one more": extra})
        assert caught.value.metadata == {
            "one more": f"None -> {extra}",
            "reason": "CONFIG_MISMATCH",
        }


REFUSED: list[tuple[Any, str]] = [
    ({"a": {"b": [math.nan]}}, r"config\.a\.b\[0\] = nan"),
    ({"a": math.inf}, r"config\.a = inf"),
    ({"seed": 2**53 + 1}, r"config\.seed = 9007199254740993"),
    ({"a": {1: 2}}, r"config\.a: key 1 is no text"),
    ({"a": {3, 4}}, r"config\.a: a set is no plain data"),
    ([("a", 1)], "config: a list is no mapping"),
    ("lr=1", "config: a str is no mapping"),
]


@pytest.mark.parametrize(("config", "text"), REFUSED)
def test_what_would_not_come_back_the_same_is_refused_by_name(
    client: SyncClient, config: Any, text: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=text):
        client.check_config(config)
    with pytest.raises(errors.RunNotFound):
        client.status()  # nothing was sent


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_strangers_nan_is_refused_too(
    server: ServerProcess, channel: grpc.Channel, run_id: str, number: float
) -> None:
    config = struct_pb2.Struct()
    config.fields["a"].number_value = number
    request = runs_pb2.CheckRunConfigRequest(name=f"runs/{run_id}", config=config)
    with unchanged(server, channel, run_id):
        found = refused(runs_pb2_grpc.RunServiceStub(channel).CheckRunConfig, request)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed here")
def test_grpcurl_shows_keys_with_old_and_new_values(server: ServerProcess, run_id: str) -> None:
    def check(config: Any, **fields: Any) -> Any:
        request = {"name": f"runs/{run_id}", "config": config, **fields}
        method = "weightsync.v1.RunService/CheckRunConfig"
        return grpcurl("-d", json.dumps(request), server.address, method)

    assert json.loads(check(FIRST).stdout) == {"stored": True}
    assert json.loads(check(FIRST).stdout) == {}
    other = changed(algorithm__lr=2e-6, monitor__api_key="hunter3")
    refusal = check(other)
    assert refusal.returncode != 0
    assert "Code: FailedPrecondition" in refusal.stderr
    assert '"reason":"CONFIG_MISMATCH"' in refusal.stderr
    assert '"algorithm.lr":"1e-06 -\\u003e 2e-06"' in refusal.stderr.replace(" ->", " -\\u003e")
    assert '"monitor.api_key":"' in refusal.stderr
    assert "hunter" not in refusal.stderr
    accepted = json.loads(check(other, accept_changes=True).stdout)
    shown = json.dumps(accepted)
    assert accepted["stored"] is True
    assert [item["key"] for item in accepted["differences"]] == ["algorithm.lr", "monitor.api_key"]
    assert "hunter" not in shown
    assert "***" in shown


def test_the_configuration_survives_a_crash(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as server,
        SyncClient(server.address, run="job", retry_for=20.0) as client,
    ):
        client.check_config(FIRST)
        server.restart()  # kill -9 first
        assert client.check_config(FIRST) == []
        with pytest.raises(errors.ConfigMismatch, match=r"monitor\.api_key"):
            client.check_config(changed(monitor__api_key="hunter3"))
        client.check_config(changed(resume=1), accept_changes=True)
        server.restart()
        assert client.check_config(changed(resume=1)) == []
