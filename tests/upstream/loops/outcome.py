"""What a run came to, by its processes' journals, and what it has to come to."""

from __future__ import annotations

from tests.upstream.loops import journal
from tests.upstream.loops.launcher import End
from tests.upstream.loops.settings import Settings

LOCKSTEP = ("fixed", "trainer_driven")
"""The styles in which an explorer gets exactly the version that its last batches went into."""


class Outcome:
    """Of a run that has ended, or still runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def loaded(self, explorer: str) -> list[int]:
        """The steps whose weights its model had, by their bytes; each row was checked whole."""
        return [row["version"] for row in self._rows(explorer, "loaded")]

    def told(self, explorer: str) -> list[int]:
        """The versions that upstream's loop asked its model to load."""
        return [row["told"] for row in self._rows(explorer, "loaded")]

    def rollouts(self, explorer: str) -> dict[int, int]:
        """Batch -> version of the model that made it."""
        return {row["batch"]: row["version"] for row in self._rows(explorer, "rollout")}

    def publishing(self) -> list[int]:
        """The versions that the trainer began to publish."""
        return [row["version"] for row in self._rows(self._settings.trainer, "publishing")]

    def published(self) -> list[int]:
        """The versions whose publication it saw end."""
        return [row["version"] for row in self._rows(self._settings.trainer, "published")]

    def trained(self) -> list[int]:
        """The steps that it trained."""
        return [row["step"] for row in self._rows(self._settings.trainer, "trained")]

    def __str__(self) -> str:
        told = [f"trained {self.trained()}, published {self.published()}"]
        for name in self._settings.explorer_names:
            told.append(f"{name} loaded {self.loaded(name)}, batch: version {self.rollouts(name)}")
        return "\n".join(told)

    def _rows(self, name: str, event: str) -> list[dict[str, int]]:
        return journal.read(self._settings.journal(name), event)


def check(settings: Settings, end: End, *, lost: tuple[str, ...] = ()) -> None:
    """Whether every loop ran to its end and reached the versions of its style. `lost` are the
    explorers that were killed: of them only what they loaded is looked at."""
    outcome = Outcome(settings)
    for name in settings.names:
        log = settings.log(name).read_text()
        # "Error in Explorer", "Error in Trainer", "Trainer sync watcher task error" and the rest.
        wrong = any(line.startswith("ERROR") for line in log.splitlines()) or "Traceback" in log
        assert not wrong, f"{name} logged:\n{log}\n{outcome}"
    assert outcome.trained() == list(range(1, settings.steps + 1)), str(outcome)
    published = outcome.published()
    assert published == outcome.publishing() == sorted(set(published)), str(outcome)
    left = {status: count for status, count in end.explorers.items() if count}
    assert lost or left == {"stopped": settings.explorers}, left  # the lost may be counted yet
    assert end.trainer_requires_sync is None, "it has not stopped"
    if not settings.own_actor or settings.method == "memory":  # see `_check_style`
        assert end.version == published[-1], (end.version, published)
    for name in settings.explorer_names:
        told, loaded = outcome.told(name), outcome.loaded(name)
        assert told == sorted(set(told)), f"{name} was told {told}"
        assert set(loaded) <= set(outcome.published()), f"{name} loaded {loaded}"
        # Whoever is told of a version and then asks for the newest may get one that is newer.
        assert all(got >= asked for got, asked in zip(loaded, told, strict=True)), (loaded, told)
        if name not in lost:
            assert list(outcome.rollouts(name)) == list(range(1, settings.batches + 1)), str(
                outcome
            )
            _check_style(settings, outcome, name, alone=bool(lost))
    if settings.style == "explorer_driven" and settings.method == "memory" and not lost:
        # The trainer publishes when an explorer waits, and that one gets what it waits for.
        everyone = set().union(*map(outcome.loaded, settings.explorer_names))
        assert everyone == set(published), str(outcome)


def _check_style(settings: Settings, outcome: Outcome, explorer: str, *, alone: bool) -> None:
    """`alone`: others died, so that the trainer trains on fewer explorers' batches than it began
    with, and versions are not bound to batch numbers any more."""
    loaded = outcome.loaded(explorer)
    every = list(range(settings.interval, settings.steps + 1, settings.interval))
    if alone:
        assert len(loaded) >= 2, loaded
    elif settings.style in LOCKSTEP:
        expected = [step for step in every if step <= settings.batches - settings.offset]
        # Upstream's trainer stops as soon as its last files lie there, and who waits for them is
        # sent home when it stops, often before upstream's Synchronizer has seen them. Ours looks.
        late = settings.own_actor and settings.method == "checkpoint" and settings.offset == 0
        accepted = [expected, expected[:-1]] if late else [expected]
        assert loaded in accepted, f"{explorer} loaded {loaded}, not {accepted}"
        for batch, version in outcome.rollouts(explorer).items():
            since = max(0, batch - 1 - settings.offset) // settings.interval
            assert version == since * settings.interval, (batch, version)
    elif settings.style == "explorer_driven":
        assert loaded, "it never got new weights"
    else:
        assert settings.staleness is not None
        assert loaded[-1] >= settings.batches - 1 - settings.staleness, loaded
        for batch, version in outcome.rollouts(explorer).items():
            assert batch - 1 - version <= settings.staleness, (batch, version)
