"""A part of the publish/wait races; `make histories` runs 100,000."""

from __future__ import annotations

import os

import pytest

from tests.histories.races import run_races
from tests.servers import running_server

RACES = int(os.environ.get("WEIGHTSYNC_RACES", "4000"))


@pytest.mark.timeout(max(300, RACES // 20))
async def test_no_wake_up_is_lost_duplicate_or_backward() -> None:
    with running_server(options=["--state-store", "memory"]) as server:
        result = await run_races(server.address, RACES, waiters=50, seed=7)
    assert result.races >= RACES
    assert result.faults == 0, result
