"""Coordination beside a Ray actor: how long until waiters are awake, and how many calls a second.

The Ray actor is the smallest one that does what Trinity-RFT's Synchronizer does: an asyncio
condition, a version, a state. Waiters are processes of their own on both sides; what is timed is
from just before the call that sets a version until the last waiter has its answer.

    python -m benchmarks.coordination            # ours alone
    pip install ray && python -m benchmarks.coordination --ray
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.ray_actor import RaySide
from benchmarks.server import blob_directory, running_server
from sync_client import SyncClient

OURS, DURABLE = "weightsync in memory", "weightsync on disk"
_FAN_OUT = (1, 4, 8)
_SETTLE_SECONDS = 0.02  # for the waiters to be parked before the version is set
_TIMEOUT = 60.0


class OurSide:
    """A real server, and the blocking SDK as its users have it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self._client = SyncClient(address)
        self._trainer = self._client.register("trainer")
        self._version = 0

    def status(self) -> None:
        """One small question."""
        self._client.status()

    def set_version(self, version: int) -> None:
        """A new version, of one tiny tensor."""
        self._trainer.push({"w": torch.tensor([version])}, version=version)

    def waiter(self) -> tuple[Callable[[Connection, Any], None], Any]:
        """What a waiting process runs, and its argument."""
        return _our_waiter, self.address

    def close(self) -> None:
        """Ends the client."""
        self._client.close()


def _our_waiter(pipe: Connection, address: str) -> None:
    with SyncClient(address) as client:
        explorer = client.register("explorer")
        held = client.status().latest_version
        pipe.send("ready")
        while (after := pipe.recv()) is not None:
            held = explorer.wait_version(after=after, timeout=_TIMEOUT)
            pipe.send((held, time.monotonic()))


@contextmanager
def _waiters(side: Any, count: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    target, argument = side.waiter()
    pipes, processes = [], []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, argument), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            if not pipe.poll(_TIMEOUT):
                raise RuntimeError(f"a waiter of {side.name} did not start")
            pipe.recv()
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            try:
                pipe.send(None)
            except (BrokenPipeError, OSError):
                pass
            process.join(10)
            if process.is_alive():
                process.terminate()


def _calls_per_second(side: Any, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        side.status()
    return calls / (time.perf_counter() - started)


class _Rounds:
    """Sets versions, each above the last, and times until the last waiter is awake."""

    def __init__(self, side: Any) -> None:
        self.side = side
        self.version = 0

    def first(self) -> None:
        """So that there is something to wait after."""
        self.version += 1
        self.side.set_version(self.version)

    def wake(self, pipes: list[Connection]) -> float:
        """Milliseconds from before the set until the last of `pipes` woke."""
        for pipe in pipes:
            pipe.send(self.version)
        time.sleep(_SETTLE_SECONDS)
        self.version += 1
        started = time.monotonic()
        self.side.set_version(self.version)
        woken = []
        for pipe in pipes:
            if not pipe.poll(_TIMEOUT):
                raise RuntimeError("a waiter never woke")
            version, at = pipe.recv()
            if version != self.version:
                raise RuntimeError(f"woken with {version}, not {self.version}")
            woken.append(at)
        return float((max(woken) - started) * 1000)


def measure(sides: list[Any], calls: int, repeat: int) -> dict[str, Any]:
    """Every figure of every side, the sides taking turns within each repetition."""
    rounds = {side.name: _Rounds(side) for side in sides}
    figures: dict[str, Any] = {
        side.name: {"calls_per_second": [], "wake_ms": {str(n): [] for n in _FAN_OUT}}
        for side in sides
    }
    for side in sides:
        rounds[side.name].first()
        _calls_per_second(side, max(1, calls // 10))
    for _ in range(5):
        for side in sides:
            figures[side.name]["calls_per_second"].append(_calls_per_second(side, calls))
    for count in _FAN_OUT:
        for side in sides:
            with _waiters(side, count) as pipes:
                rounds[side.name].wake(pipes)
                samples = [rounds[side.name].wake(pipes) for _ in range(repeat)]
            figures[side.name]["wake_ms"][str(count)] += samples
    return figures


def summary(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians: calls a second, and milliseconds until all of 1, 4, 8 waiters are awake."""
    return {
        name: {
            "calls_per_second": round(statistics.median(side["calls_per_second"]), 1),
            **{
                f"wake_{count}_ms": round(statistics.median(samples), 2)
                for count, samples in side["wake_ms"].items()
            },
        }
        for name, side in figures.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; 1 where a side could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordination", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="status calls a repetition")
    parser.add_argument("--repeat", type=int, default=50, help="wake-ups for each fan-out")
    parser.add_argument("--ray", action="store_true", help="measure a Ray actor beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args(arguments)
    with (
        running_server(blob_directory(1), state_store="memory") as memory,
        running_server(None) as disk,
    ):
        # In memory alone, as Ray is; and with every version synced to the disk before it is seen.
        sides: list[Any] = [OurSide(OURS, memory.address), OurSide(DURABLE, disk.address)]
        try:
            if options.ray:
                sides.append(RaySide())
            figures = measure(sides, options.calls, options.repeat)
        finally:
            for side in sides:
                side.close()
    medians = summary(figures)
    for name, values in medians.items():
        print(name, json.dumps(values))
    if options.ray:
        ours, ray = medians[OURS], medians["ray"]
        better = {
            key: round(
                ours[key] / ray[key] if key == "calls_per_second" else ray[key] / ours[key], 2
            )
            for key in ours
        }
        print("times better than Ray", json.dumps(better))
    if options.json is not None:
        document = {"machine": machine.describe(), "medians": medians, "figures": figures}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
