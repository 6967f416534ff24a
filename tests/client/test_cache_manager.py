"""CacheManager with every kind of configuration, and what a mismatch says."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import inspect
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sync_client import CacheManager, SyncClient, errors
from sync_client.trinity.runs import plain, run_id
from tests.servers import ServerProcess, running_server


class Style(enum.Enum):
    """As upstream's configuration has them."""

    FIXED = "fixed"


@dataclasses.dataclass
class Side:
    """The section of one side."""

    name: str = "explorer"


@dataclasses.dataclass
class Config:
    """As much of a configuration as CacheManager reads, and something to differ by."""

    ray_namespace: str
    trainer: Side = dataclasses.field(default_factory=lambda: Side("trainer"))
    explorer: Side = dataclasses.field(default_factory=Side)
    style: Style = Style.FIXED
    lr: float = 1e-6
    total_steps: float = math.inf
    api_key: str = "hunter2"
    gone: None = None


def kinds_of_config(namespace: str) -> dict[str, Any]:
    """The same configuration as each kind of thing."""
    config = Config(namespace)
    sides = {"trainer": {"name": "trainer"}, "explorer": {"name": "explorer"}}
    rest = {
        "style": "fixed",
        "lr": 1e-6,
        "total_steps": math.inf,
        "api_key": "hunter2",
        "gone": None,
    }
    return {
        "dataclass": config,
        "dict": {"ray_namespace": namespace, **sides, **rest},
        "namespace": SimpleNamespace(
            ray_namespace=namespace,
            trainer=SimpleNamespace(name="trainer"),
            explorer=argparse.Namespace(name="explorer"),
            **rest,
        ),
        "object": _AnObject(config),
    }


class _AnObject:
    def __init__(self, config: Config) -> None:
        self.__dict__.update(vars(config))
        self._private = object()

    def method(self) -> None:
        """No part of the configuration."""


@pytest.mark.parametrize("kind", ["dataclass", "dict", "namespace", "object"])
def test_it_saves_and_loads_with_any_configuration(
    server: ServerProcess, run_id: str, kind: str
) -> None:
    config = kinds_of_config(run_id)[kind]
    with CacheManager(config, check_config=True, server=server.address) as manager:
        assert manager.load_explorer() == {}
        assert manager.load_trainer() == {}
        manager.save_explorer(current_task_index=17, current_step=5)
        manager.save_trainer(4)
        assert manager.load_explorer() == {"latest_task_index": 17, "latest_iteration": 5}
        assert manager.load_trainer() == {"latest_iteration": 4}
        manager.save_explorer(18, 6)
    # Whatever the kind, it is the same run and the same configuration.
    for other in kinds_of_config(run_id).values():
        with CacheManager(other, check_config=True, server=server.address) as manager:
            assert manager.load_explorer() == {"latest_task_index": 18, "latest_iteration": 6}
            assert manager.load_trainer() == {"latest_iteration": 4}


def test_the_signatures_are_the_originals() -> None:
    def parameters(method: Any) -> list[str]:
        return list(inspect.signature(method).parameters)

    assert parameters(CacheManager)[:2] == ["config", "check_config"]
    assert inspect.signature(CacheManager).parameters["check_config"].default is False
    assert parameters(CacheManager.save_explorer) == ["self", "current_task_index", "current_step"]
    assert parameters(CacheManager.save_trainer) == ["self", "current_step"]
    assert parameters(CacheManager.load_explorer) == parameters(CacheManager.load_trainer)


def test_each_explorer_of_a_run_has_its_own_record(server: ServerProcess, run_id: str) -> None:
    names = ("explorer_0", "explorer_1")
    configs = [{"ray_namespace": run_id, "explorer": {"name": name}} for name in names]
    for step, config in enumerate(configs):
        with CacheManager(config, server=server.address) as manager:
            manager.save_explorer(step, step)
    for step, config in enumerate(configs):
        with CacheManager(config, server=server.address) as manager:
            assert manager.load_explorer() == {"latest_task_index": step, "latest_iteration": step}
            assert manager.load_trainer() == {}


def test_the_environment_names_the_run_where_the_configuration_does_not(
    server: ServerProcess, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTSYNC_RUN", run_id)
    monkeypatch.setenv("WEIGHTSYNC_SERVER", server.address)
    with CacheManager({}) as manager:
        manager.save_trainer(3)
    with SyncClient() as client:
        assert client.run == run_id
        assert client.load_progress("trainer").record == {"current_step": 3}


def test_a_mismatch_names_exactly_the_keys_that_differ(server: ServerProcess, run_id: str) -> None:
    with CacheManager(Config(run_id), check_config=True, server=server.address):
        pass
    other = Config(run_id, lr=2e-6, api_key="hunter3", explorer=Side("other"))
    with pytest.raises(ValueError, match="in 3 keys") as caught:
        CacheManager(other, check_config=True, server=server.address)
    assert isinstance(caught.value, errors.ConfigMismatch)
    assert caught.value.metadata == {
        "explorer.name": "'explorer' -> 'other'",
        "lr": "1e-06 -> 2e-06",
        "api_key": "'***' -> '***'",
        "reason": "CONFIG_MISMATCH",
    }
    assert "hunter" not in str(caught.value)
    # Without the check it is let in, as upstream does.
    with CacheManager(other, server=server.address) as manager:
        assert manager.load_trainer() == {}


def test_secrets_reach_neither_the_database_nor_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = [b"hunter2-alpha", b"hunter2-beta", b"hunter2-gamma"]
    config = Config("job", api_key="hunter2-alpha")
    env = {"HF_TOKEN": "hunter2-beta", "db": "postgresql://u:hunter2-gamma@db/x"}
    caplog.set_level(logging.DEBUG)
    with running_server(tmp_path, options=["--log-level", "debug"]) as server:
        whole = plain(config) | {"env": env}
        with CacheManager(whole, check_config=True, server=server.address) as manager:
            manager.save_trainer(1)
        with pytest.raises(errors.ConfigMismatch):
            CacheManager(config, check_config=True, server=server.address)
        with pytest.raises(errors.ConfigMismatch) as caught:
            CacheManager({**whole, "api_key": "x"}, check_config=True, server=server.address)
        assert caught.value.metadata["api_key"] == "'***' -> '***'"
        server.restart()
        with CacheManager(whole, check_config=True, server=server.address) as manager:
            assert manager.load_trainer() == {"latest_iteration": 1}
        assert "CONFIG_MISMATCH" in server.log  # so it would have been there
        files = [path for path in server.data_dir.rglob("*") if path.is_file()]
        content = b"".join(path.read_bytes() for path in files)
    for secret in secrets:
        assert secret not in content
        assert secret not in server.log.encode()
        assert secret.decode() not in caplog.text
    assert b"job" in content
    assert b"fixed" in content  # the configuration is there


def test_a_server_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync_client.trinity.cache_manager.SyncClient", _impatient)
    with pytest.raises(errors.ServerUnavailable):
        CacheManager({}, check_config=True, server="127.0.0.1:1")
    with CacheManager({}, server="127.0.0.1:1") as manager:
        with pytest.raises(errors.ServerUnavailable):
            manager.load_trainer()  # not {}: that would start the training over
        with pytest.raises(errors.ServerUnavailable):
            manager.save_trainer(1)


def _impatient(server: str | None, run: str) -> SyncClient:
    return SyncClient(server, run, retry_for=0.1)


# --- what a configuration becomes


def test_plain_data_is_the_same_in_every_process() -> None:
    code = (
        "from tests.client.test_cache_manager import odd;"
        "from sync_client.trinity.runs import plain;"
        "print(plain(odd()))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert said == {str(plain(odd()))}
    assert "0x" not in said.pop()


def odd() -> dict[Any, Any]:
    """What upstream's and other people's configurations hold besides scalars."""
    return {
        "names": {"alpha", "beta", "gamma", "delta", "epsilon"},
        "path": Path("/data/model"),
        "style": Style.FIXED,
        "reward": len,
        "function": test_the_signatures_are_the_originals,
        "type": Side,
        "limit": math.inf,
        "nested": [SimpleNamespace(x=(1, 2.5, None, True))],
        3: "number as a key",
    }


def test_plain_data() -> None:
    assert plain(odd()) == {
        "names": ["alpha", "beta", "delta", "epsilon", "gamma"],
        "path": "/data/model",
        "style": "fixed",
        "reward": "builtins.len",
        "function": f"{__name__}.test_the_signatures_are_the_originals",
        "type": f"{__name__}.Side",
        "limit": "inf",
        "nested": [{"x": [1, 2.5, None, True]}],
        "3": "number as a key",
    }


def test_two_namespaces_never_share_a_run() -> None:
    found = [run_id(name) for name in ("a/b", "a-b", "a//b", "/a/b", "a b", "ä", "x" * 200, "...")]
    assert len(set(found)) == len(found)
    assert run_id("a-b") == "a-b"
    assert all(len(name) <= 128 for name in found)
