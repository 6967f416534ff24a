"""Publish/wait races: waiters that begin to wait at every possible moment around a commit.

Each round pushes one version while `waiters` tasks, on several channels, ask for something newer
than what they have, with delays from none to longer than the push. A race is one wait of one
waiter. What may never happen: a wait that sleeps through a version (lost), that answers with one
that the waiter has (duplicate), or with a lower one (backward).

    python -m tests.histories.races --races 100000
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

import click
import torch

from sync_client import AsyncSyncClient
from sync_client.worker import AsyncWorker
from tests.servers import running_server

_LOST_AFTER = 30.0  # seconds; a wake-up takes milliseconds, on a busy machine tens of them


@dataclass
class Result:
    """What was seen; `delays` are seconds from the answer of the push to the waiter's wake-up."""

    races: int = 0
    lost: int = 0
    duplicate: int = 0
    backward: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Everything that may not happen."""
        return self.lost + self.duplicate + self.backward


@dataclass
class _Shared:
    last: int
    committed: dict[int, float] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


async def run_races(address: str, races: int, waiters: int, seed: int) -> Result:
    """Runs at least `races` races against a server and counts what went wrong."""
    result = Result()
    clients = [AsyncSyncClient(address, run=f"races-{seed}") for _ in range(8)]
    trainer = await clients[0].register("trainer")
    rounds = -(-races // waiters)
    shared = _Shared(last=rounds)
    await trainer.push(_weights(0), version=0)
    tasks = [
        asyncio.create_task(
            _wait(
                clients[index % len(clients)], random.Random(seed * 100_003 + index), shared, result
            )
        )
        for index in range(waiters)
    ]
    try:
        await _publish(trainer, rounds, random.Random(seed), shared, result, waiters)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    return result


async def _publish(
    trainer: AsyncWorker,
    rounds: int,
    rng: random.Random,
    shared: _Shared,
    result: Result,
    waiters: int,
) -> None:
    for version in range(1, rounds + 1):
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.004)))
        await trainer.push(_weights(version), version=version)
        shared.committed[version] = time.monotonic()
        # Every waiter races once a round: the slowest may be one round behind, not more.
        while result.races + result.lost < (version - 1) * waiters:
            shared.woken.clear()
            await shared.woken.wait()


async def _wait(
    client: AsyncSyncClient, rng: random.Random, shared: _Shared, result: Result
) -> None:
    held = 0
    while held < shared.last:
        await asyncio.sleep(rng.choice((0, 0, 0, rng.uniform(0, 0.006))))
        found = await client.wait_version(after=held, timeout=_LOST_AFTER)
        woke = time.monotonic()
        shared.woken.set()
        if found is None:
            result.lost += 1
            return
        # Several versions may have come meanwhile: each of them was a race that was not lost.
        result.races += max(1, found - held)
        result.duplicate += found == held
        result.backward += found < held
        if found in shared.committed:
            result.delays.append(woke - shared.committed[found])
        held = max(held, found)


def _weights(version: int) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([version])}


@click.command()
@click.option("--races", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--waiters", type=click.IntRange(1, 5000), default=50, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(races: int, waiters: int, seed: int) -> None:
    """Run publish/wait races through a real server; exit 1 if any went wrong."""
    with running_server(options=["--state-store", "memory"]) as server:
        started = time.monotonic()
        result = asyncio.run(run_races(server.address, races, waiters, seed))
    delays = [delay for delay in result.delays if delay > 0]
    click.echo(
        f"{result.races} races in {time.monotonic() - started:.0f} s: {result.lost} lost, "
        f"{result.duplicate} duplicate, {result.backward} backward; woken "
        f"{statistics.median(delays or [0]) * 1000:.1f} ms after the push had returned (median "
        f"of those that were not awake before)"
    )
    raise SystemExit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
