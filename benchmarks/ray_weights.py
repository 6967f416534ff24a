"""A Ray actor that holds the last state dict, as Trinity-RFT's Synchronizer does. Needs Ray.

The dict goes in as an argument of a method and comes out as its result; what is pulled is copied
into the explorer's tensors, as a model loads it. Nothing is checked.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import Service

_NAMESPACE = "weightsync-bench"
_ACTOR = "weights"
_SPARE_BYTES = 256 << 20


class _Synchronizer:
    """The methods are coroutines, as upstream's are."""

    def __init__(self) -> None:
        self._state_dict: Any = None

    async def pid(self) -> int:
        return os.getpid()

    async def set_state_dict(self, state_dict: Any) -> None:
        self._state_dict = state_dict

    async def get_state_dict(self) -> Any:
        return self._state_dict


@contextmanager
def running(size_bytes: int, explorers: int) -> Iterator[Service]:
    """A local Ray with one actor. The service is the actor's process and Ray's raylet."""
    ray: Any = importlib.import_module("ray")
    # Ray's 15 would put its workers behind every other program of the machine, and ours not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    context = ray.init(
        namespace=_NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        num_cpus=2,
        # Room for what everyone may have in flight at once, so that nothing goes to disk.
        object_store_memory=(explorers + 4) * size_bytes + _SPARE_BYTES,
    )
    try:
        kind = ray.remote(_Synchronizer)
        actor = kind.options(name=_ACTOR, max_concurrency=1000, num_cpus=0).remote()
        raylets = _raylets()
        pids = (ray.get(actor.pid.remote()), *raylets)
        yield Service(context.address_info["address"], pids, partial(_object_store, raylets))
    finally:
        ray.shutdown()


def _raylets() -> tuple[int, ...]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # it ended in between
        if name == "raylet" and int(rest.split()[1]) == os.getpid():
            found.append(int(path.parent.name))
    return tuple(found)


def _object_store(raylets: tuple[int, ...]) -> int:
    """The pages of the object store: a deleted file in memory that the raylet holds open."""
    files = {}
    for pid in raylets:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if "plasma" in str(path.readlink()):
                    status = path.stat()
                    files[status.st_ino] = status.st_blocks * 512
            except OSError:
                continue  # it was closed in between
    return sum(files.values())


class _RayLink:
    def __init__(self, address: str) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._ray.init(
            address=address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        self._actor = self._ray.get_actor(_ACTOR)

    def push(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        self._ray.get(self._actor.set_state_dict.remote(state_dict))

    def pull(self, into: Mapping[str, torch.Tensor]) -> object:
        state_dict = self._ray.get(self._actor.get_state_dict.remote())
        for name, tensor in into.items():
            tensor.copy_(state_dict[name])
        return state_dict

    def close(self) -> None:
        self._ray.shutdown()


def connect(address: str) -> _RayLink:
    """A peer's end; one a process."""
    return _RayLink(address)
