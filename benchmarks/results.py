"""What was measured, and the figures made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.ways import GIB, MEMCPY, OURS, SOCKET, all_ways, counterpart

MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One transfer, or one of every explorer at once.

    seconds: from the first beginning to the last end. cpu: process -> CPU seconds, all explorers
    together. each: the seconds of every explorer. memory: whose -> peak bytes; see `Watch`.
    """

    seconds: float
    cpu: dict[str, float]
    each: tuple[float, ...] = ()
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def receivers(self) -> int:
        """How many copies of the weights were moved."""
        return max(1, len(self.each))


@dataclass
class Results:
    """Everything of one run. Samples of one index come from the same round."""

    size_bytes: int
    blobs_on_tmpfs: bool
    fresh_processes: bool
    explorers: int = 1
    rivals: tuple[str, ...] = ()
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    warm_up: dict[str, list[Sample]] = field(default_factory=dict)
    load_before: float = 0.0
    load_after: float = 0.0

    def add(self, found: dict[str, Sample], *, warm_up: bool) -> None:
        """The samples of one round."""
        for way, sample in found.items():
            (self.warm_up if warm_up else self.samples).setdefault(way, []).append(sample)

    def rates(self, way: str) -> list[float]:
        """GiB a second of each round, of all explorers together."""
        size = self.size_bytes / GIB
        return [size * sample.receivers / sample.seconds for sample in self.samples[way]]

    def ratios(self, way: str, base: str = SOCKET) -> list[float]:
        """The rate over that of another way in the same round."""
        pairs = zip(self.rates(way), self.rates(base), strict=True)
        return [rate / reference for rate, reference in pairs]

    def times(self, way: str, base: str) -> list[float]:
        """The seconds over those of another way in the same round."""
        pairs = zip(self.samples[way], self.samples[base], strict=True)
        return [sample.seconds / reference.seconds for sample, reference in pairs]

    def cpu_per_gib(self, way: str) -> dict[str, float]:
        """Process -> median CPU seconds a GiB that arrived. What others do disturbs it least."""
        samples = self.samples[way]
        moved = self.size_bytes * samples[0].receivers
        return {
            process: median(sample.cpu[process] for sample in samples) * GIB / moved
            for process in samples[0].cpu
        }

    def memory_mib(self, way: str) -> dict[str, float]:
        """Whose -> the highest peak of all rounds that count."""
        samples = self.samples[way]
        return {
            who: round(max(sample.memory[who] for sample in samples) / MIB, 1)
            for who in samples[0].memory
        }

    def server_anonymous_bytes(self) -> int:
        """The most that our server held beside blobs in the whole run."""
        return max(
            sample.memory.get("server", 0)
            for found in (self.samples, self.warm_up)
            for way in OURS
            for sample in found.get(way, [])
        )


def summary(results: Results) -> dict[str, Any]:
    """Way -> figures; ready for JSON."""
    return {way: _figures(results, way) for way in all_ways(results.rivals)}


def _figures(results: Results, way: str) -> dict[str, Any]:
    samples = results.samples[way]
    figures: dict[str, Any] = {
        "gib_per_s": spread(results.rates(way)),
        "ratio_to_plain_socket": spread(results.ratios(way)),
        "times_memcpy": spread(results.times(way, MEMCPY)),
        "cpu_seconds_per_gib": {
            process: round(seconds, 3) for process, seconds in results.cpu_per_gib(way).items()
        },
        "peak_memory_mib": results.memory_mib(way),
        "seconds": [round(sample.seconds, 4) for sample in samples],
    }
    if way in OURS:
        figures["ratio_to"] = {
            rival: spread(results.ratios(way, counterpart(way, rival))) for rival in results.rivals
        }
    if samples[0].receivers > 1:
        figures |= _fairness(results, samples)
    return figures


def _fairness(results: Results, samples: list[Sample]) -> dict[str, Any]:
    size = results.size_bytes / GIB
    return {
        "seconds_of_each_explorer": [[round(s, 4) for s in sample.each] for sample in samples],
        "gib_per_s_of_each_explorer": spread([size / s for each in samples for s in each.each]),
        "slowest_over_fastest": spread([max(s.each) / min(s.each) for s in samples]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }
