"""What the demo's processes tell the one that started them: one JSON object a line.

Times are those of CLOCK_MONOTONIC in seconds, which all processes of a machine share.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Pushed:
    """The trainer has pushed `version`, which took from `started` to `ended`. `size` in bytes.

    `visible`: when the server let the explorers have it, which is before the trainer heard of it.
    `samples`: how many the step learned from.
    """

    who: str
    started: float
    visible: float
    ended: float
    version: int
    size: int
    samples: int


@dataclass(frozen=True)
class Pulled:
    """An explorer has loaded `version`, which took until `ended`; the pull itself `seconds`.

    `size` in bytes. `same`: its own tensors have the digest that the pull promised. `verified`: the
    server said so, too, when that was reported.
    """

    who: str
    ended: float
    version: int
    size: int
    seconds: float
    same: bool
    verified: bool


@dataclass(frozen=True)
class Acted:
    """An explorer has sampled with `version` (None: its random start). `reward` is the mean."""

    who: str
    ended: float
    version: int | None
    reward: float
    text: str


Event = Pushed | Pulled | Acted
_KINDS: dict[str, type[Pushed] | type[Pulled] | type[Acted]] = {
    kind.__name__: kind for kind in (Pushed, Pulled, Acted)
}


def send(event: Event) -> None:
    """Writes an event to standard output, at once."""
    line = json.dumps({"kind": type(event).__name__, **dataclasses.asdict(event)})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse(line: str) -> Event | None:
    """The event of a line; None for what somebody else printed."""
    try:
        content = json.loads(line)
        return _KINDS[content.pop("kind")](**content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
