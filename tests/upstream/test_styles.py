"""`SyncPlan` against Trainer, Explorer and Synchronizer of Trinity-RFT 0.6.0, step for step."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sync_client import SyncMethod, SyncPlan, SyncStyle
from sync_client.styles import Answer
from tests.upstream import table

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Trinity-RFT 0.6.0 is for Python below 3.13"
)

# What the other side is told besides the answer, in the order of the calls.
CALLS = {
    Answer.NO: (),
    Answer.YES: (),
    Answer.IF_TRAINER_REQUIRES: ("trainer_requires_weight_sync",),
    Answer.IF_EXPLORER_REQUIRES: ("explorer_requires_sync",),
    Answer.TELL_NOTHING_NEW: ("notify_no_new_model_state_dict",),
}


@pytest.fixture(scope="module")
def upstream() -> dict[str, list[str | None]]:
    """What upstream's classes answer to the whole table, from a process of their own."""
    assert metadata.version("trinity-rft") == "0.6.0"
    script = Path(__file__).with_name("upstream_answers.py")
    done = subprocess.run(
        [sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, list[str | None]] = json.loads(done.stdout)
    return answers


def said(needs: bool, answer: Answer) -> str:
    """An answer as upstream's is written down: 0 or 1, and then the calls."""
    return " ".join([str(int(needs)), *CALLS[answer]])


def assert_same(rows: list[Any], theirs: list[str | None], ours: list[str | None]) -> None:
    """One line for each difference, and not 60,000 rows side by side."""
    assert len(theirs) == len(rows) > 0
    different = [
        f"{row}: upstream {their!r}, SyncPlan {our!r}"
        for row, their, our in zip(rows, theirs, ours, strict=True)
        if their != our
    ]
    assert not different, "\n".join([f"{len(different)} differ", *different[:20]])


def test_explorers_sync_when_upstreams_do(upstream: dict[str, list[str | None]]) -> None:
    ours: list[str | None] = []
    for row in table.EXPLORER_ROWS:
        plan = SyncPlan(
            SyncStyle(row.style),
            SyncMethod(row.method),
            row.interval,
            explorer_interval=row.override,
            trainer_interval=4,  # must not matter
            offset=row.offset,
        )
        requires = table.TRAINER_STATES[row.trainer_state]
        needs = plan.explorer_needs_sync(row.step, requires)
        ours.append(said(needs, plan.explorer_answer(row.step)))
    assert_same(table.EXPLORER_ROWS, upstream["explorer"], ours)
    assert set(ours) == {
        "0",
        "1",
        "0 trainer_requires_weight_sync",
        "1 trainer_requires_weight_sync",
    }


def test_trainers_sync_when_upstreams_do(upstream: dict[str, list[str | None]]) -> None:
    ours: list[str | None] = []
    for row in table.TRAINER_ROWS:
        plan = SyncPlan(
            SyncStyle(row.style),
            SyncMethod(row.method),
            row.interval,
            explorer_interval=4,  # must not matter, nor must the offset
            trainer_interval=row.override,
            offset=7,
        )
        needs = plan.trainer_needs_sync(row.step, row.last_sync_step, row.explorers_requiring > 0)
        ours.append(said(needs, plan.trainer_answer(row.step, row.last_sync_step)))
    assert_same(table.TRAINER_ROWS, upstream["trainer"], ours)
    assert set(ours) == {
        *("0", "1"),
        *("0 explorer_requires_sync", "1 explorer_requires_sync"),
        "0 notify_no_new_model_state_dict",
    }


@pytest.mark.parametrize("kind", [SyncStyle, SyncMethod], ids=lambda kind: kind.__name__)
def test_names_and_aliases_are_upstreams_in_any_case(
    kind: type[SyncStyle] | type[SyncMethod], upstream: dict[str, list[str | None]]
) -> None:
    ours: list[str | None] = []
    for text in table.SPELLINGS:
        try:
            ours.append(kind(text).value)
        except ValueError:
            ours.append(None)
    assert_same(table.SPELLINGS, upstream[kind.__name__], ours)
    assert set(ours) == {None, *(member.value for member in kind)}
