"""What happened in a demo: events in, the numbers for the table, the picture and the summary out.

Pure: times come with the events.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from sync_client.demo.events import Acted, Event, Pulled, Pushed

# How many batches of an explorer count as its start and as its end. At the start every version is
# better than the last, so that few have to do.
_EDGE = 3
_SMOOTH = 20


@dataclass(frozen=True)
class ExplorerSummary:
    """One explorer in the summary; rewards are means over its first and last batches.

    `max_lag`: how many versions behind the newest its samples were, at most, when it sent them.
    `delay_ms`: median time from the start of a push until the explorer had loaded what was pushed
    and said so.
    """

    name: str
    batches: int
    pulls: int
    same_digest: int
    verified: int
    start_reward: float
    final_reward: float
    final_version: int | None
    max_lag: int | None
    delay_ms: float | None
    pull_mb_per_s: float | None


@dataclass(frozen=True)
class Summary:
    """A whole demo. Sizes in bytes, speeds in MB/s (10^6), times in seconds."""

    start_reward: float
    final_reward: float
    steps: int
    versions_pushed: int
    version_size: int
    samples: int
    seconds: float
    push_mb_per_s: float
    explorers: tuple[ExplorerSummary, ...]

    @property
    def pulls(self) -> int:
        """Pulls of all explorers."""
        return sum(explorer.pulls for explorer in self.explorers)

    @property
    def same_digest(self) -> int:
        """Pulls after which the explorer's own tensors had the digest of the version."""
        return sum(explorer.same_digest for explorer in self.explorers)


class Story:
    """Collects the events of one demo. explorers: their names, in the order of the table."""

    def __init__(self, explorers: Sequence[str]) -> None:
        self.explorers = tuple(explorers)
        self.pushes: list[Pushed] = []
        self.pulls: dict[str, list[Pulled]] = {name: [] for name in explorers}
        self.acts: dict[str, list[Acted]] = {name: [] for name in explorers}

    def add(self, event: Event) -> None:
        """Takes an event in; those of one process come in their order."""
        if isinstance(event, Pushed):
            self.pushes.append(event)
        elif isinstance(event, Pulled):
            self.pulls[event.who].append(event)
        else:
            self.acts[event.who].append(event)

    @property
    def start(self) -> float:
        """When the first push began. Needs one."""
        return self.pushes[0].started

    @property
    def newest(self) -> int | None:
        """The newest version."""
        return self.pushes[-1].version if self.pushes else None

    def reward(self, name: str) -> float | None:
        """An explorer's mean reward over its last batches."""
        acts = self.acts[name][-_EDGE:]
        return mean(act.reward for act in acts) if acts else None

    def push_speed(self) -> float | None:
        """MB/s of the last pushes."""
        last = self.pushes[-_SMOOTH:]
        return _speed([(push.size, push.ended - push.started) for push in last])

    def pull_speed(self, name: str) -> float | None:
        """MB/s of an explorer's last pulls."""
        return _speed([(pull.size, pull.seconds) for pull in self.pulls[name][-_SMOOTH:]])

    def lags(self, name: str) -> list[tuple[float, int]]:
        """(time, versions behind the newest) of each batch that was sampled with pulled weights."""
        visible = [push.visible for push in self.pushes]
        found = []
        for act in self.acts[name]:
            if act.version is not None:
                newest = self.pushes[max(0, bisect_right(visible, act.ended) - 1)].version
                found.append((act.ended, max(0, newest - act.version)))
        return found

    def summary(self) -> Summary:
        """All of it. Needs a push, and a batch of every explorer."""
        last = max(acts[-1].ended for acts in self.acts.values())
        explorers = tuple(self._explorer(name) for name in self.explorers)
        return Summary(
            start_reward=mean(explorer.start_reward for explorer in explorers),
            final_reward=mean(explorer.final_reward for explorer in explorers),
            steps=len(self.pushes) - 1,
            versions_pushed=len(self.pushes),
            version_size=self.pushes[-1].size,
            samples=sum(push.samples for push in self.pushes),
            seconds=last - self.start,
            push_mb_per_s=_speed([(p.size, p.ended - p.started) for p in self.pushes]) or 0.0,
            explorers=explorers,
        )

    def _explorer(self, name: str) -> ExplorerSummary:
        acts, pulls = self.acts[name], self.pulls[name]
        begun = {push.version: push.started for push in self.pushes}
        delays = [pull.ended - begun[pull.version] for pull in pulls]
        return ExplorerSummary(
            name=name,
            batches=len(acts),
            pulls=len(pulls),
            same_digest=sum(pull.same for pull in pulls),
            verified=sum(pull.verified for pull in pulls),
            start_reward=mean(act.reward for act in acts[:_EDGE]),
            final_reward=mean(act.reward for act in acts[-_EDGE:]),
            final_version=acts[-1].version,
            max_lag=max((lag for _, lag in self.lags(name)), default=None),
            delay_ms=1000 * median(delays) if delays else None,
            pull_mb_per_s=_speed([(pull.size, pull.seconds) for pull in pulls]),
        )


def _speed(moved: Sequence[tuple[int, float]]) -> float | None:
    """The median MB/s of (bytes, seconds)."""
    return median(size / 1e6 / max(seconds, 1e-9) for size, seconds in moved) if moved else None
