"""The questions that upstream and `SyncPlan` are both asked, in one order.

Intervals are (interval, explorer's override, trainer's override); states are those of the other
side, from which upstream's own Synchronizer says whether it requires a sync.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

STYLES = ("fixed", "trainer_driven", "explorer_driven", "fully_async")
METHODS = ("nccl", "checkpoint", "memory")
STEPS = range(21)
OFFSETS = range(4)
INTERVALS = (1, 2, 3, 5)
# Multiples of none, one and several of the intervals.
LAST_SYNC_STEPS = (None, 0, 1, 6, 10, 15, 20)
OVERRIDES: tuple[int | None, ...] = (None, *INTERVALS)

# What RunningStatus the trainer has, and what `trainer_requires_weight_sync` makes of it.
TRAINER_STATES: dict[str, bool | None] = {
    "running": False,
    "require_sync": True,
    "stopped": None,
}
# How many explorers are in REQUIRE_SYNC.
EXPLORERS_REQUIRING = (0, 1, 3)


class ExplorerRow(NamedTuple):
    """One question to an explorer."""

    style: str
    method: str
    interval: int
    override: int | None
    offset: int
    trainer_state: str
    step: int


class TrainerRow(NamedTuple):
    """One question to a trainer; `last_sync_step` None: it never synced."""

    style: str
    method: str
    interval: int
    override: int | None
    explorers_requiring: int
    last_sync_step: int | None
    step: int


EXPLORER_ROWS = [
    ExplorerRow(*row)
    for row in itertools.product(
        STYLES, METHODS, INTERVALS, OVERRIDES, OFFSETS, TRAINER_STATES, STEPS
    )
]
TRAINER_ROWS = [
    TrainerRow(*row)
    for row in itertools.product(
        STYLES, METHODS, INTERVALS, OVERRIDES, EXPLORERS_REQUIRING, LAST_SYNC_STEPS, STEPS
    )
]

STYLE_NAMES = (*STYLES, "dynamic_by_trainer", "dynamic_by_explorer")
METHOD_NAMES = (*METHODS, "online", "offline")
NOT_NAMES = ("", " fixed", "trainer", "driven", "dynamic", "gloo", "fixed ", "nccl2")
SPELLINGS = [
    spelling
    for name in (*STYLE_NAMES, *METHOD_NAMES, *NOT_NAMES)
    for spelling in (name, name.upper(), name.title(), name.capitalize(), name.swapcase())
]
