"""What the handle does otherwise on purpose: each scenario on both sides; prints JSON.

python -m tests.upstream.differences     (server: WEIGHTSYNC_SERVER)
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import torch

from tests.upstream import stubs

stubs.install("torch")

from tests.upstream.sides import STATUS, Ours, Upstream  # noqa: E402 - the stubs come first

Side = Upstream | Ours
Scenario = Callable[[Side], Awaitable[Any]]
SHORT = 0.6  # sync_timeout in seconds
RUNNING, REQUIRE, STOPPED = STATUS.RUNNING, STATUS.REQUIRE_SYNC, STATUS.STOPPED


def weights(value: float) -> dict[str, torch.Tensor]:
    """A state dict."""
    return {"a": torch.full((2,), value)}


async def _begin(side: Side, explorers: int = 1) -> None:
    await side.call("set_trainer_status", RUNNING)
    for _ in range(explorers):
        await side.call("set_explorer_status", RUNNING)


async def _waits(side: Side, count: int) -> None:
    """Until that many explorers are in REQUIRE_SYNC."""
    for _ in range(500):
        if (await side.look())[1].get(REQUIRE, 0) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never {count} in REQUIRE_SYNC: {await side.look()}")


async def number_goes_back(side: Side) -> Any:
    """A trainer that sets a lower step than before, without having begun anew."""
    await _begin(side)
    await side.call("set_model_state_dict", weights(5), 5)
    said = await side.call("set_model_state_dict", weights(4), 4)
    return said, (await side.look())[2]


async def other_bytes(side: Side) -> Any:
    """Other weights under the same step."""
    await _begin(side)
    await side.call("set_model_state_dict", weights(5), 5)
    return await side.call("set_model_state_dict", weights(6), 5)


async def refused(side: Side) -> Any:
    """An explorer that is moved from where it is not."""
    await _begin(side)
    said = await side.call("set_explorer_status", RUNNING, REQUIRE)
    again = await side.call("set_explorer_status", REQUIRE, RUNNING)
    await side.call("set_explorer_status", STOPPED, RUNNING)
    counts = (await side.look())[1]
    return said, again, {key.value: count for key, count in counts.items()}


async def one_stops(side: Side) -> Any:
    """One explorer waits, and another one stops."""
    await _begin(side, 2)
    waiting = asyncio.ensure_future(side.call("wait_new_model_state_dict", 0))
    await _waits(side, 1)
    await side.call("set_explorer_status", STOPPED, RUNNING)
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    await side.call("set_model_state_dict", weights(1), 1)
    return bool(done), await waiting


async def times_out(side: Side) -> Any:
    """Nothing comes within `sync_timeout`."""
    await _begin(side)
    said = await side.call("wait_new_model_state_dict", 0)
    return said, {key.value: count for key, count in (await side.look())[1].items()}


async def meets_nobody(side: Side) -> Any:
    """A trainer that is ready, and an explorer that does not come."""
    await _begin(side)
    await side.call("set_model_state_dict", weights(1), 1)
    return await side.call("ready_to_nccl_sync", "trainer", 2), (await side.look())[2]


async def met(side: Side) -> Any:
    """What is the newest state dict after a transfer that it did not go through?"""
    await _begin(side)
    await side.call("set_model_state_dict", weights(1), 1)
    await asyncio.gather(
        side.call("ready_to_nccl_sync", "trainer", 2),
        side.call("ready_to_nccl_sync", "explorer", 2),
    )
    path = await side.call("get_latest_model_path")
    return await side.call("get_model_state_dict"), path


async def set_by_hand(side: Side) -> Any:
    """An explorer in REQUIRE_SYNC that never said it was ready for NCCL."""
    await _begin(side)
    await side.call("set_explorer_status", REQUIRE, RUNNING)
    return await side.call("ready_to_nccl_sync", "trainer", 1)


async def moved_while_it_waits(side: Side) -> Any:
    """Somebody takes a waiting explorer to STOPPED."""
    await _begin(side)
    waiting = asyncio.ensure_future(side.call("wait_new_model_state_dict", 0))
    await _waits(side, 1)
    await side.call("set_explorer_status", STOPPED, REQUIRE)
    await side.call("set_model_state_dict", weights(1), 1)
    return await waiting


async def no_state_dict(side: Side) -> Any:
    """Something that is no state dict."""
    await _begin(side)
    return await side.call("set_model_state_dict", [1, 2], 1)


async def main() -> dict[str, list[Any]]:
    """Each scenario as [upstream's, ours]."""
    scenarios: list[Scenario] = [
        number_goes_back, other_bytes, refused, one_stops, times_out,
        meets_nobody, met, set_by_hand, moved_while_it_waits, no_state_dict,
    ]  # fmt: skip
    results: dict[str, list[Any]] = {}
    for scenario in scenarios:
        name = getattr(scenario, "__name__")  # noqa: B009 - a Callable has none, says mypy
        sides: list[Side] = [Upstream(name, SHORT), Ours(name, SHORT)]
        results[name] = [await scenario(side) for side in sides]
    return results


def _plain(value: Any) -> Any:
    return value.__name__ if isinstance(value, type) else str(value)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main()), default=_plain) + "\n")
