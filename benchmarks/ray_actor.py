"""The same jobs on a Ray actor, as Trinity-RFT's Synchronizer does them. Needs Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_NAMESPACE = "weightsync-bench"
_ACTOR = "synchronizer"
_TIMEOUT = 60.0


class _Synchronizer:
    """A version, a condition, and who waits on it."""

    def __init__(self) -> None:
        self._version = 0
        self._weights: Any = None
        self._changed = asyncio.Condition()

    async def status(self) -> int:
        return self._version

    async def set_version(self, version: int, weights: Any) -> None:
        async with self._changed:
            self._version = version
            self._weights = weights
            self._changed.notify_all()

    async def wait_version(self, after: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self._version > after)
            return self._version


class RaySide:
    """A local Ray with one actor. Raises RuntimeError where Ray is not installed."""

    name = "ray"

    def __init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise RuntimeError("--ray needs: pip install ray") from error
        self._ray: Any = ray
        context: Any = ray.init(
            namespace=_NAMESPACE, include_dashboard=False, log_to_driver=False, num_cpus=2
        )
        self._address = context.address_info["address"]
        kind: Any = ray.remote(_Synchronizer)
        self._actor = kind.options(name=_ACTOR, max_concurrency=1000, num_cpus=0).remote()
        ray.get(self._actor.status.remote())

    def status(self) -> None:
        """One small question."""
        self._ray.get(self._actor.status.remote())

    def set_version(self, version: int) -> None:
        """A new version, of one tiny tensor."""
        import torch

        weights = {"w": torch.tensor([version])}
        self._ray.get(self._actor.set_version.remote(version, weights))

    def waiter(self) -> tuple[Callable[[Connection, Any], None], Any]:
        """What a waiting process runs, and its argument."""
        return _ray_waiter, self._address

    def close(self) -> None:
        """Ends the actor and Ray."""
        self._ray.shutdown()


def _ray_waiter(pipe: Connection, address: str) -> None:
    import ray

    ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False)
    actor: Any = ray.get_actor(_ACTOR)
    pipe.send("ready")
    while (after := pipe.recv()) is not None:
        version = ray.get(actor.wait_version.remote(after), timeout=_TIMEOUT)
        pipe.send((version, time.monotonic()))
    ray.shutdown()
