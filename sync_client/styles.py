"""When trainer and explorer synchronize: Trinity-RFT's styles as pure decisions.

The decisions follow `need_sync` of Trainer and Explorer in Trinity-RFT 0.6.0 step for step
(tests/upstream compares them with the real classes). What they need to know of the other side is
an argument; what is to be done besides is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class _ByName(str, Enum):
    """An enum that also takes its values in any case, and aliases."""

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """Other names, lower case, of the values."""
        return {}

    @classmethod
    def _missing_(cls, value: object) -> _ByName | None:
        if isinstance(value, str):
            name = value.lower()
            name = cls.aliases().get(name, name)
            for member in cls:
                if member.value == name:
                    return member
        return None

    def __str__(self) -> str:
        return str(self.value)


class SyncStyle(_ByName):
    """Who decides when weights are synchronized."""

    FIXED = "fixed"
    TRAINER_DRIVEN = "trainer_driven"
    EXPLORER_DRIVEN = "explorer_driven"
    FULLY_ASYNC = "fully_async"

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """The names of earlier releases of Trinity-RFT."""
        return {"dynamic_by_trainer": "trainer_driven", "dynamic_by_explorer": "explorer_driven"}


class SyncMethod(_ByName):
    """How weights travel."""

    NCCL = "nccl"
    CHECKPOINT = "checkpoint"
    MEMORY = "memory"

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """The names of earlier releases of Trinity-RFT."""
        return {"online": "nccl", "offline": "checkpoint"}


class Answer(Enum):
    """What a side should do at a step."""

    NO = "no"
    YES = "yes"
    IF_TRAINER_REQUIRES = "if the trainer requires a sync"
    IF_EXPLORER_REQUIRES = "if any explorer requires a sync"
    TELL_NOTHING_NEW = "no, and tell the explorers that there is nothing new"


@dataclass(frozen=True)
class SyncPlan:
    """The synchronization of one run, used by both sides.

    interval: every how many steps (>= 1); explorer_interval and trainer_interval override it for
    one side. offset: how many steps an explorer runs before its first sync (>= 0).
    Raises ValueError for anything else.
    """

    style: SyncStyle = SyncStyle.FIXED
    method: SyncMethod = SyncMethod.MEMORY
    interval: int = 1
    explorer_interval: int | None = None
    trainer_interval: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "style", SyncStyle(self.style))
        object.__setattr__(self, "method", SyncMethod(self.method))
        for name in ("interval", "explorer_interval", "trainer_interval"):
            value = getattr(self, name)
            if name == "interval" or value is not None:
                _check(name, value, 1)
        _check("offset", self.offset, 0)

    def explorer_answer(self, step: int) -> Answer:
        """What an explorer should do after its `step`-th step.

        A fully asynchronous explorer never stops for it: it takes new weights as they come.
        """
        if self.style is SyncStyle.FULLY_ASYNC or step <= self.offset:
            return Answer.NO
        interval = self.explorer_interval or self.interval
        if (step - self.offset) % interval:
            return Answer.NO
        if self.style is SyncStyle.TRAINER_DRIVEN and self.method is SyncMethod.NCCL:
            return Answer.IF_TRAINER_REQUIRES
        return Answer.YES

    def trainer_answer(self, step: int, last_sync_step: int | None) -> Answer:
        """What the trainer should do after its `step`-th step; it synced last at another one."""
        if self.style is not SyncStyle.EXPLORER_DRIVEN:
            interval = self.trainer_interval or self.interval
            due = last_sync_step != step and step % interval == 0
            return Answer.YES if due else Answer.NO
        if last_sync_step == step and self.method is not SyncMethod.NCCL:
            return Answer.TELL_NOTHING_NEW
        return Answer.IF_EXPLORER_REQUIRES

    def explorer_needs_sync(self, step: int, trainer_requires: bool | None = None) -> bool:
        """Whether an explorer should sync now; `trainer_requires` is asked by one style alone."""
        answer = self.explorer_answer(step)
        return answer is Answer.YES or (
            answer is Answer.IF_TRAINER_REQUIRES and bool(trainer_requires)
        )

    def trainer_needs_sync(
        self, step: int, last_sync_step: int | None, explorer_requires: bool = False
    ) -> bool:
        """Whether the trainer should sync now. For explorer-driven runs without anything new the
        explorers must be told besides (`Worker.notify_nothing_new`): see `trainer_answer`."""
        answer = self.trainer_answer(step, last_sync_step)
        return answer is Answer.YES or (answer is Answer.IF_EXPLORER_REQUIRES and explorer_requires)


def _check(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r}: a whole number of {least} or more is allowed")
