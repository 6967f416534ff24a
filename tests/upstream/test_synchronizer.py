"""The handle against Trinity-RFT 0.6.0's own Synchronizer, call for call.

`WEIGHTSYNC_SEQUENCES` says how many random sequences of calls are made (default 30).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import running_server

SEQUENCES = int(os.environ.get("WEIGHTSYNC_SEQUENCES", "30"))

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Trinity-RFT 0.6.0 is for Python below 3.13"
)


def both_sides(module: str, *arguments: str, timeout: float) -> Any:
    """What a script prints that asks both sides, in a process of its own with a server."""
    root = Path(__file__).parents[2]
    with running_server() as server:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.upstream.{module}", *arguments],
            cwd=root,
            env={**os.environ, "WEIGHTSYNC_SERVER": server.address},
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(90 + SEQUENCES * 6)
def test_random_calls_have_the_same_results() -> None:
    seed = random.randrange(10**6)
    found = both_sides("differential", str(seed), str(SEQUENCES), timeout=60 + SEQUENCES * 6)
    assert found["disagreement"] is None, json.dumps(found, indent=2)
    assert found["sequences"] == SEQUENCES
    assert found["calls"] > SEQUENCES * 20


# By the numbers of docs/trinity.md: (what upstream does, what we do).
DIFFERENCES: dict[str, tuple[Any, Any]] = {
    "number_goes_back": ([None, 4], ["VersionNotNewer", 5]),  # 1
    "other_bytes": (None, "VersionExists"),  # 1
    "refused": (
        ["AssertionError", None, {"running": -1, "require_sync": 1}],
        ["AssertionError", None, {"require_sync": 1}],
    ),  # 2
    "one_stops": ([True, 0], [False, 1]),  # 3
    "times_out": (["TimeoutError", {"require_sync": 1}], ["TimeoutError", {"running": 1}]),  # 4
    "moved_while_it_waits": ("AssertionError", 1),  # 7
    "set_by_hand": (1, None),  # 8
    "meets_nobody": ([None, 2], [None, 1]),  # 9
    "met": ([[{"a": [1, 1]}, 2], "/job/global_step_1/actor"], [[None, 2], None]),  # 9
    "no_state_dict": (None, "TensorRefused"),  # 10
}


@pytest.fixture(scope="module")
def differences() -> dict[str, list[Any]]:
    """What both sides do."""
    found: dict[str, list[Any]] = both_sides("differences", timeout=100)
    return found


@pytest.mark.parametrize("scenario", DIFFERENCES)
def test_it_differs_on_purpose(differences: dict[str, list[Any]], scenario: str) -> None:
    assert differences[scenario] == list(DIFFERENCES[scenario])


def test_each_scenario_is_expected(differences: dict[str, list[Any]]) -> None:
    assert differences.keys() == DIFFERENCES.keys()
