"""`SyncPlan` on its own; tests/upstream compares it with Trinity-RFT's classes."""

from __future__ import annotations

from typing import Any

import pytest

from sync_client import SyncMethod, SyncPlan, SyncStyle
from sync_client.styles import Answer

TRAINER, EXPLORER = SyncStyle.TRAINER_DRIVEN, SyncStyle.EXPLORER_DRIVEN
ASK = Answer.IF_EXPLORER_REQUIRES


def test_by_default_both_sides_sync_after_every_step_and_not_before() -> None:
    plan = SyncPlan()
    assert (plan.style, plan.method) == (SyncStyle.FIXED, SyncMethod.MEMORY)
    assert [plan.explorer_needs_sync(step) for step in range(4)] == [False, True, True, True]
    assert plan.trainer_answer(3, 2) is Answer.YES
    assert plan.trainer_answer(3, 3) is Answer.NO
    assert plan.trainer_answer(0, None) is Answer.YES


def test_an_offset_lets_explorers_run_ahead() -> None:
    plan = SyncPlan(interval=2, offset=3)
    due = [step for step in range(12) if plan.explorer_needs_sync(step)]
    assert due == [5, 7, 9, 11]
    assert [step for step in range(7) if plan.trainer_needs_sync(step, None)] == [0, 2, 4, 6]


def test_an_override_is_for_one_side_alone() -> None:
    plan = SyncPlan(interval=4, explorer_interval=2, trainer_interval=3)
    assert [step for step in range(1, 9) if plan.explorer_needs_sync(step)] == [2, 4, 6, 8]
    assert [step for step in range(1, 9) if plan.trainer_needs_sync(step, None)] == [3, 6]


ANSWERS: list[tuple[SyncStyle, SyncMethod, Answer, Answer, Answer]] = [
    # style, method, an explorer that is due, a trainer that is due, a trainer that just synced
    (SyncStyle.FIXED, SyncMethod.NCCL, Answer.YES, Answer.YES, Answer.NO),
    (SyncStyle.FIXED, SyncMethod.MEMORY, Answer.YES, Answer.YES, Answer.NO),
    (TRAINER, SyncMethod.NCCL, Answer.IF_TRAINER_REQUIRES, Answer.YES, Answer.NO),
    (TRAINER, SyncMethod.CHECKPOINT, Answer.YES, Answer.YES, Answer.NO),
    (EXPLORER, SyncMethod.NCCL, Answer.YES, ASK, ASK),
    (EXPLORER, SyncMethod.MEMORY, Answer.YES, ASK, Answer.TELL_NOTHING_NEW),
    (SyncStyle.FULLY_ASYNC, SyncMethod.MEMORY, Answer.NO, Answer.YES, Answer.NO),
]


@pytest.mark.parametrize(("style", "method", "explorer", "trainer", "synced"), ANSWERS)
def test_what_each_style_answers(
    style: SyncStyle, method: SyncMethod, explorer: Answer, trainer: Answer, synced: Answer
) -> None:
    plan = SyncPlan(style, method)
    assert plan.explorer_answer(5) is explorer
    assert plan.trainer_answer(5, 4) is trainer
    assert plan.trainer_answer(5, 5) is synced


@pytest.mark.parametrize(("requires", "needs"), [(True, True), (False, False), (None, False)])
def test_an_explorer_that_asks_the_trainer(requires: bool | None, needs: bool) -> None:
    plan = SyncPlan(SyncStyle.TRAINER_DRIVEN, SyncMethod.NCCL, interval=2)
    assert plan.explorer_needs_sync(2, requires) is needs
    assert plan.explorer_needs_sync(3, requires) is False


def test_a_trainer_that_asks_the_explorers() -> None:
    plan = SyncPlan(SyncStyle.EXPLORER_DRIVEN, SyncMethod.MEMORY)
    assert plan.trainer_needs_sync(5, 4, explorer_requires=True)
    assert not plan.trainer_needs_sync(5, 4, explorer_requires=False)
    # Nothing new to give, whatever the explorers want.
    assert not plan.trainer_needs_sync(5, 5, explorer_requires=True)


def test_names_of_configuration_files_are_taken_in_any_case() -> None:
    text: Any = "Dynamic_By_Trainer"
    method: Any = "OFFLINE"
    plan = SyncPlan(text, method)
    assert plan.style is SyncStyle.TRAINER_DRIVEN
    assert plan.method is SyncMethod.CHECKPOINT
    assert (str(plan.style), str(plan.method)) == ("trainer_driven", "checkpoint")
    assert plan == SyncPlan(SyncStyle("dynamic_by_trainer"), SyncMethod("offline"))


WRONG: list[tuple[str, Any]] = [
    *(("style", value) for value in ("sometimes", "", None, 3)),
    *(("method", value) for value in ("carrier pigeon", None)),
    *(("interval", value) for value in (0, -1, 1.5, "2", None)),
    *(("explorer_interval", value) for value in (0, -3, 2.0)),
    *(("trainer_interval", value) for value in (0, -3, "1")),
    *(("offset", value) for value in (-1, 0.5, None)),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_no_plan_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=str(value) if value != "" else "''"):
        SyncPlan(**{name: value})
