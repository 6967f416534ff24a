"""How long a crowd sleeps on after a commit: median, p99 and the last of a thousand waiters.

    python -m benchmarks.wakeups --waiters 1000 --rounds 20

The waiters are long polls of one process over four channels; the trainer is another process. What
is timed is from just before the push of a tiny version until each waiter has its answer, so it
includes the push (2 to 3 ms): an upper bound. All processes share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.server import blob_directory, running_server
from sync_client import AsyncSyncClient, SyncClient

_CHANNELS = 4
_TIMEOUT = 60.0
_RUN = "default"


def _trainer(pipe: Connection, address: str) -> None:
    import torch

    with SyncClient(address, run=_RUN) as client:
        pipe.send("ready")
        while (version := pipe.recv()) is not None:
            started = time.monotonic()
            client.push({"w": torch.tensor([version])}, version=version)
            pipe.send(started)


async def _measure(address: str, waiters: int, rounds: int, pipe: Connection) -> list[list[float]]:
    """Milliseconds from the push to each wake-up, sorted, for each round."""
    clients = [AsyncSyncClient(address, run=_RUN) for _ in range(_CHANNELS)]
    measured = []
    try:
        await _push(pipe, 1)
        for version in range(1, rounds + 2):
            woken: list[float] = []
            tasks = [
                asyncio.create_task(_wait(clients[i % _CHANNELS], version, woken))
                for i in range(waiters)
            ]
            while len((await clients[0].status()).waiters) < waiters:  # noqa: ASYNC110 - asks a server
                await asyncio.sleep(0.02)
            started = await _push(pipe, version + 1)
            await asyncio.gather(*tasks)
            if version > 1:  # the first round is for warming up
                measured.append(sorted((at - started) * 1000 for at in woken))
    finally:
        for client in clients:
            await client.close()
    return measured


async def _wait(client: AsyncSyncClient, after: int, woken: list[float]) -> None:
    found = await client.wait_version(after=after, timeout=_TIMEOUT)
    woken.append(time.monotonic())
    if found != after + 1:
        raise RuntimeError(f"woken with {found}, not {after + 1}")


async def _push(pipe: Connection, version: int) -> float:
    pipe.send(version)
    return float(await asyncio.get_running_loop().run_in_executor(None, pipe.recv))


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wakeups", description=__doc__)
    parser.add_argument("--waiters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with running_server(blob_directory(1)) as server:
        trainer: Any = context.Process(target=_trainer, args=(theirs, server.address), daemon=True)
        trainer.start()
        try:
            ours.recv()
            work = _measure(server.address, options.waiters, options.rounds, ours)
            measured = asyncio.run(work)
            ours.send(None)
        finally:
            trainer.join(10)
            if trainer.is_alive():
                trainer.terminate()
    every = sorted(delay for delays in measured for delay in delays)
    summary = {
        "waiters": options.waiters,
        "rounds": options.rounds,
        "median_ms": round(statistics.median(every), 1),
        "p99_ms": round(every[int(len(every) * 0.99)], 1),
        "last_ms_median_of_rounds": round(statistics.median(d[-1] for d in measured), 1),
        "last_ms_worst_round": round(every[-1], 1),
    }
    print(json.dumps(summary))
    if options.json is not None:
        document = {"machine": machine.describe(), "summary": summary, "rounds_ms": measured}
        options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
