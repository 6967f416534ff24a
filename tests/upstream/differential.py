"""Random calls to upstream's Synchronizer and to the handle, one after the other; prints JSON.

    python -m tests.upstream.differential SEED SEQUENCES     (server: WEIGHTSYNC_SERVER)

What is different on purpose is left out here or undone on upstream's side, each time with its
number in docs/trinity.md; tests/upstream/test_differences.py shows each of them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.upstream import stubs

stubs.install("torch")

from tests.upstream.sides import STATUS, Ours, Upstream  # noqa: E402 - the stubs come first

CALLS = 25
_SETTLE_SECONDS = 5.0
_TIMEOUT = 30.0  # nobody waits for it here
RUNNING, REQUIRE, STOPPED = STATUS.RUNNING, STATUS.REQUIRE_SYNC, STATUS.STOPPED


@dataclass
class Sequence:
    """One sequence of calls, made to both sides."""

    source: random.Random
    upstream: Upstream
    ours: Ours
    said: list[str] = field(default_factory=list)
    # Calls that wait, by a name: (upstream's, ours).
    waiting: dict[str, tuple[asyncio.Task[Any], asyncio.Task[Any]]] = field(default_factory=dict)
    step: int = -1

    async def run(self) -> str | None:
        """The first disagreement in words; None: there is none."""
        for _ in range(CALLS):
            problem = await self._call(*self._choose()) or await self._compare()
            if problem is not None:
                return problem
        for method in ("notify_no_new_model_state_dict", "get_model_state_dict"):
            problem = await self._call(method) or await self._compare()
            if problem is not None:
                return problem
        return None if not self.waiting else f"still waiting: {sorted(self.waiting)}"

    def _choose(self) -> tuple[Any, ...]:
        source, actor = self.source, self.upstream.actor
        statuses = [RUNNING, REQUIRE, STOPPED]
        counts = actor.explorer_status_counts
        waits = bool(self.waiting)
        choices: list[tuple[Any, ...]] = [
            ("set_trainer_status", source.choice([RUNNING, RUNNING, REQUIRE, STOPPED])),
            ("trainer_requires_weight_sync",),
            ("explorer_requires_sync",),
            ("set_explorer_status", RUNNING),
            ("get_model_state_dict",),
            ("get_model_state_dict_iterator",),
            ("get_state_dict_meta",),
            ("get_latest_model_version",),
            ("get_latest_model_path", source.choice([False, True])),
            ("notify_no_new_model_state_dict",),
            *[self._new_version()] * 3,
            *[("wait_new_model_state_dict", self._current())] * 4,
        ]
        new, old = source.choice(statuses), source.choice(statuses)
        # 3: an explorer that stops wakes upstream's waiters; 7: one of them may be moved.
        if not (waits and (STOPPED in (new, old) or old is REQUIRE)):
            choices += [("set_explorer_status", new), ("set_explorer_status", new, old)]
        # 8: upstream meets with whoever has set a status by hand; 9: nobody else waits then.
        by_hand = actor.trainer_status is REQUIRE or counts.get(REQUIRE, 0)
        if sum(counts.values()) == 1 and not waits and not by_hand:
            choices += [("ready_to_nccl_sync",)] * 6
        return source.choice(choices)

    def _new_version(self) -> tuple[Any, ...]:
        source = self.source
        # 1: within one trainer numbers rise.
        step = max(self.step, self.upstream.actor.model_version) + source.randrange(1, 4)
        if self.step < 0 and source.random() < 0.3:
            step = 0
        state_dict: Any = {
            f"layer.{index}": torch.randn(index, 2).to(source.choice([torch.bfloat16, torch.int8]))
            for index in range(1, source.randrange(2, 5))
        }
        return (
            "set_model_state_dict",
            source.choice([state_dict] * 3 + [None, f"path-{step}"]),
            step,
        )

    def _current(self) -> int:
        newest = self.upstream.actor.model_version
        choices: list[int] = [newest, newest, newest, newest - 1, newest + 1, -1]
        return self.source.choice(choices)

    async def _call(self, method: str, *arguments: Any) -> str | None:
        self.said.append(f"{method}{arguments}"[:100])
        if method == "set_model_state_dict":
            self.step = arguments[1]
        if method == "ready_to_nccl_sync":
            return await self._meet()
        if method == "wait_new_model_state_dict":
            self._start(f"wait {len(self.said)}", method, *arguments)
            return None
        theirs = await self._theirs(method, *arguments)
        ours = await self.ours.call(method, *arguments)
        return None if theirs == ours else f"upstream gave {theirs}, the handle {ours}"

    def _start(self, name: str, method: str, *arguments: Any) -> None:
        self.waiting[name] = (
            asyncio.ensure_future(self._theirs(method, *arguments)),
            asyncio.ensure_future(self.ours.call(method, *arguments)),
        )

    async def _theirs(self, method: str, *arguments: Any) -> Any:
        result = await self.upstream.call(method, *arguments)
        if result is AssertionError:
            # 2: upstream counts down below zero and then refuses. The others may have called in
            # between, so only that one step is undone.
            counts = self.upstream.actor.explorer_status_counts
            counts.update({status: 0 for status, count in counts.items() if count < 0})
        return result

    async def _meet(self) -> str | None:
        """Both sides, or one of them and somebody who stops; see 8 and 9."""
        actor = self.upstream.actor
        version, step = actor.model_version, actor.model_version + self.source.randrange(1, 4)
        first, second = self.source.sample(["trainer", "explorer"], 2)
        can_meet = actor.explorer_status_counts.get(RUNNING) and actor.trainer_status is RUNNING
        if not can_meet and first == "explorer" and actor.trainer_status is not STOPPED:
            return None
        self._start("first", "ready_to_nccl_sync", first, step)
        problem = await self._compare(version=False)
        if problem is None and "first" in self.waiting:
            if self.source.random() < 0.6:
                self._start("second", "ready_to_nccl_sync", second, step)
                self.step = step
            elif first == "trainer":
                problem = await self._call("set_explorer_status", STOPPED, RUNNING)
            else:
                problem = await self._call("set_trainer_status", STOPPED)
        problem = problem or await self._compare(version=False)
        if actor.model_version != version:
            # 9: upstream raises the version before the transfer, also of one that fails, and goes
            # on to give the state dict of before.
            if self.step == step:
                actor.model_state_dict = actor.model_path = None
            else:
                actor.model_version = version
        return problem

    async def _compare(self, *, version: bool = True) -> str | None:
        """Waits until both sides show the same; else what each shows."""
        shown: Any = None
        for attempt in range(int(_SETTLE_SECONDS / 0.01)):
            await asyncio.sleep(0.001 if attempt < 5 else 0.01)
            theirs, ours = list(await self.upstream.look()), list(await self.ours.look())
            if not version:
                theirs.pop(), ours.pop()
            ended = [
                [name for name, tasks in self.waiting.items() if tasks[side].done()]
                for side in (0, 1)
            ]
            shown = [theirs, ended[0]], [ours, ended[1]]
            if shown[0] == shown[1]:
                break
        else:
            return f"upstream shows {shown[0]}, the handle {shown[1]}"
        for name in ended[0]:
            results = [task.result() for task in self.waiting.pop(name)]
            if results[0] != results[1]:
                return f"{name}: upstream gave {results[0]}, the handle {results[1]}"
        return None


async def main(seed: int, count: int) -> dict[str, Any]:
    """Runs `count` sequences; stops at the first disagreement."""
    calls = 0
    for number in range(count):
        torch.manual_seed(seed + number)
        namespace = f"differential-{seed + number}"
        sequence = Sequence(
            random.Random(seed + number),
            Upstream(namespace, _TIMEOUT),
            Ours(namespace, _TIMEOUT),
        )
        problem = await sequence.run()
        calls += len(sequence.said)
        if problem is not None:
            return {
                "sequences": number,
                "calls": calls,
                "seed": seed + number,
                "disagreement": problem,
                "said": sequence.said,
            }
    return {"sequences": count, "calls": calls, "disagreement": None}


if __name__ == "__main__":
    found = asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write(json.dumps(found, default=str) + "\n")
