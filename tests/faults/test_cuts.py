"""Connections that end, drip or fall silent in the middle of everything."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.faults.proxy import FaultProxy
from tests.servers import ServerProcess
from tests.until import until

MIB = 1 << 20
WEIGHTS = {f"layer.{index}": torch.full((MIB,), float(index)) for index in range(8)}  # 32 MiB
DIGEST = state_dict_digest(WEIGHTS)


class Cutter:
    """A progress callback that has the link cut again and again, at random distances."""

    def __init__(self, proxy: FaultProxy, direction: str, count: int, seed: int) -> None:
        self.cuts = 0
        self.done = 0
        self._proxy = proxy
        self._direction = direction
        self._count = count
        self._random = random.Random(seed)
        self._way = self._arm()

    def __call__(self, done: int, total: int) -> None:
        if self._way.cuts and self.cuts < self._count:
            self.cuts += 1
            self._way = self._arm()
        self.done = done

    def _arm(self):  # type: ignore[no-untyped-def]  # placeholder
        return self._proxy.arm(self._direction, cut_at=self._random.randrange(6 * MIB))
