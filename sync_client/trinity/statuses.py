"""Trinity-RFT's statuses and this service's worker states, one table for both ways."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Any

from sync_client.types import WorkerState


class RunningStatus(Enum):
    """Trinity-RFT's own, for processes that have not imported it: the same names and values."""

    RUNNING = "running"
    REQUIRE_SYNC = "require_sync"
    STOPPED = "stopped"


_STATES = {
    "running": WorkerState.RUNNING,
    "require_sync": WorkerState.REQUIRE_SYNC,
    "waiting_sync": WorkerState.WAITING_SYNC,  # known to releases before 0.6
    "stopped": WorkerState.STOPPED,
}


def worker_state(status: object) -> WorkerState:
    """The state of a status: Trinity's enum, ours, or its name or value as text.

    Raises AssertionError, as upstream does for a status that it does not know.
    """
    text = status.value if isinstance(status, Enum) else status
    found = _STATES.get(text.lower()) if isinstance(text, str) else None
    assert found is not None, f"Invalid status {status!r}: {', '.join(_STATES)} are known"
    return found


def running_status(state: WorkerState | None) -> Any:
    """The status of a state: a member of Trinity's enum in a process that has imported it.

    Upstream begins with a STOPPED trainer, so None (there was none yet) is that, and LOST too.
    """
    kind: Any = RunningStatus
    constants = sys.modules.get("trinity.common.constants")
    if constants is not None:
        kind = constants.RunningStatus
    name = "STOPPED" if state in (None, WorkerState.LOST) else str(state)
    if name == "WAITING_SYNC" and not hasattr(kind, name):
        name = "REQUIRE_SYNC"  # it waits, and upstream has one word less for that
    return kind[name]
