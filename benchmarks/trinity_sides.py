"""Trinity-RFT's trainer and explorer with a Synchronizer: our handle, or upstream's Ray actor.

Both sides run the same code, each in a process of its own: only `get` and the handle differ.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import torch
import xxhash

from benchmarks import model
from sync_client.trinity import RunningStatus, get, get_actor

_NAMESPACE = "weightsync-bench"
Connect = Callable[[], tuple[Any, Callable[[Any], Any]]]
"""Gives the Synchronizer's handle and the `get` for its references."""


class Trainer:
    """Holds the state dict and pushes it."""

    def __init__(self, connect: Connect, size_bytes: int) -> None:
        torch.set_num_threads(1)
        self._state_dict = model.make_state_dict(size_bytes)
        model.work(self._state_dict)
        self._handle, self._get = connect()
        self._get(self._handle.set_trainer_status.remote(RunningStatus.RUNNING))

    def is_alive(self) -> bool:
        """Asked by upstream's Synchronizer, which ends when nobody answers."""
        return True

    def total_bytes(self) -> int:
        """The bytes of the state dict."""
        return model.total_bytes(self._state_dict)

    def push(self, version: int) -> tuple[float, str]:
        """New values in every element, then the push. Seconds, and what was pushed."""
        for tensor in self._state_dict.values():
            tensor.view(torch.int16).add_(1)
        started = time.perf_counter()
        self._get(self._handle.set_model_state_dict.remote(self._state_dict, version))
        return time.perf_counter() - started, fingerprint(self._state_dict)


class Explorer:
    """Pulls, in both of upstream's ways."""

    def __init__(self, connect: Connect, size_bytes: int) -> None:
        torch.set_num_threads(1)
        self._weights = model.make_state_dict(size_bytes, seed=1)
        model.work(self._weights)
        self._handle, self._get = connect()
        self._get(self._handle.set_explorer_status.remote(RunningStatus.RUNNING))

    def is_alive(self) -> bool:
        """As of the trainer."""
        return True

    def pull(self, version: int) -> tuple[float, str]:
        """The whole state dict at once. Seconds, and what came. Raises RuntimeError."""
        started = time.perf_counter()
        state_dict, found = self._get(self._handle.get_model_state_dict.remote())
        seconds = time.perf_counter() - started
        if found != version:
            raise RuntimeError(f"version {found} was pulled, not {version}")
        return seconds, fingerprint(state_dict)

    def iterate(self) -> tuple[float, str]:
        """Tensor for tensor into weights that are there, as vLLM's `load_weights` does it."""
        started = time.perf_counter()
        for ref in self._handle.get_model_state_dict_iterator.remote():
            name, tensor = self._get(ref)
            self._weights[name].copy_(tensor)
        return time.perf_counter() - started, fingerprint(self._weights)


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """One hash over names, dtypes, shapes and every byte, whatever the order of the tensors."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class OurSide:
    """The handle on a real server; trainer and explorer as processes."""

    name = "weightsync"

    def __init__(self, address: str, size_bytes: int) -> None:
        connect = partial(_connect_to_server, address)
        self._pools = {
            role.__name__: ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(role, connect, size_bytes),
            )
            for role in (Trainer, Explorer)
        }

    def call(self, role: str, method: str, *arguments: object) -> Any:
        """A method of "Trainer" or "Explorer" in its process. Raises what it raised."""
        return self._pools[role].submit(_call, method, *arguments).result()

    def packages(self) -> dict[str, str]:
        """What it needs besides, and `machine.describe` does not tell of: nothing."""
        return {}

    def close(self) -> None:
        """Ends both."""
        for pool in self._pools.values():
            pool.shutdown()


def _connect_to_server(address: str) -> tuple[Any, Callable[[Any], Any]]:
    return get_actor(namespace=_NAMESPACE, server=address), get


_role: Any = None


def _begin(role: Callable[[Connect, int], Any], connect: Connect, size_bytes: int) -> None:
    global _role  # noqa: PLW0603 - a pool's process has nowhere else to keep what it is
    _role = role(connect, size_bytes)


def _call(method: str, *arguments: object) -> Any:
    return getattr(_role, method)(*arguments)


class RaySide:
    """A local Ray with upstream's own Synchronizer; trainer and explorer are actors, as upstream's.

    Raises RuntimeError where Ray or Trinity-RFT is not installed.
    """

    name = "Ray actor"

    def __init__(self, size_bytes: int) -> None:
        for package in ("ray", "trinity"):
            # Not `find_spec` on a name inside it: that would import Trinity-RFT without the stub.
            if importlib.util.find_spec(package) is None:
                raise RuntimeError(
                    "--ray needs: pip install ray && pip install --no-deps trinity-rft==0.6.0"
                )
        ray: Any = importlib.import_module("ray")
        self._ray = ray
        _without_omegaconf()
        # Ray's 15 would put its workers behind every other program of the machine, and ours not.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
        ray.init(
            namespace=_NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            num_cpus=2,
            runtime_env={"worker_process_setup_hook": _without_omegaconf},
        )
        # Two threads: one to answer `is_alive` while the other one transfers.
        self._actors = {
            role.__name__: ray.remote(role)
            .options(num_cpus=0, max_concurrency=2)
            .remote(_connect_to_ray, size_bytes)
            for role in (Trainer, Explorer)
        }

    def call(self, role: str, method: str, *arguments: object) -> Any:
        """A method of "Trainer" or "Explorer" in its actor. Raises what it raised."""
        return self._ray.get(getattr(self._actors[role], method).remote(*arguments))

    def packages(self) -> dict[str, str]:
        """The versions of what is measured."""
        return {name: metadata.version(name) for name in ("ray", "trinity-rft")}

    def close(self) -> None:
        """Ends the actors and Ray."""
        self._ray.shutdown()


def _without_omegaconf() -> None:
    """Trinity-RFT's config.py imports it, and the Synchronizer never gets to where it is used."""
    if importlib.util.find_spec("omegaconf") is None:
        stub = types.ModuleType("omegaconf")
        stub.__dict__["OmegaConf"] = stub.__dict__["DictConfig"] = object
        sys.modules["omegaconf"] = stub


def _connect_to_ray() -> tuple[Any, Callable[[Any], Any]]:
    """Upstream's `get_actor`: the first who calls it makes the actor."""
    ray: Any = importlib.import_module("ray")
    upstream: Any = importlib.import_module("trinity.manager.synchronizer")
    constants: Any = importlib.import_module("trinity.common.constants")
    config = SimpleNamespace(
        mode="both",
        ray_namespace=_NAMESPACE,
        checkpoint_job_dir="job",
        explorer=SimpleNamespace(rollout_model=SimpleNamespace(enable_lora=False)),
        synchronizer=SimpleNamespace(sync_method=constants.SyncMethod.MEMORY),
    )
    return upstream.Synchronizer.get_actor(config), ray.get
