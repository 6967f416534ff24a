"""The measurement: plain socket, push, pull, and again, so that all three see the same machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.peers import Peer, Timed
from benchmarks.server import ServerProcess, blob_directory, running_server

GIB = 2**30
SOCKET, PUSH, PULL = "plain socket", "push", "pull"
WAYS = (SOCKET, PUSH, PULL)


@dataclass(frozen=True)
class Sample:
    """One transfer: wall seconds, and CPU seconds of each process that took part."""

    seconds: float
    cpu: dict[str, float]


@dataclass
class Results:
    """Everything that was measured in one run. Samples of one index come from the same round."""

    size_bytes: int
    tensors_on_tmpfs: bool
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {way: [] for way in WAYS})
    server_anonymous_bytes: int = 0
    load_before: float = 0.0
    load_after: float = 0.0

    def rates(self, way: str) -> list[float]:
        """GiB a second of each round."""
        return [self.size_bytes / GIB / sample.seconds for sample in self.samples[way]]

    def ratios(self, way: str) -> list[float]:
        """The rate over that of the plain socket in the same round."""
        reference = self.rates(SOCKET)
        return [rate / base for rate, base in zip(self.rates(way), reference, strict=True)]

    def cpu_per_gib(self, way: str) -> dict[str, float]:
        """Process -> median CPU seconds a GiB. Other programs on the machine disturb it least."""
        samples = self.samples[way]
        return {
            process: median(sample.cpu[process] for sample in samples) * GIB / self.size_bytes
            for process in samples[0].cpu
        }


def measure(size_bytes: int, repeat: int, say: Callable[[str], None]) -> Results:
    """One warm-up round that does not count, then `repeat` rounds of socket, push and pull.

    Each pull must give the digest of the push before it. Raises RuntimeError.
    """
    parent = blob_directory(size_bytes)
    with (
        running_server(parent) as server,
        Peer("trainer", server.address, size_bytes) as trainer,
        Peer("explorer", server.address, size_bytes) as explorer,
    ):
        trainer.call("connect", explorer.call("port"))
        explorer.call("accept")
        results = Results(trainer.call("total_bytes"), parent is not None)
        results.load_before = machine.load()
        with server.watching_memory() as peak:
            for number in range(repeat + 1):
                _round(server, trainer, explorer, results, number + 1, counts=number > 0)
                say(_line(results, number, repeat))
        results.server_anonymous_bytes = peak[0]
        results.load_after = machine.load()
    return results


def _round(
    server: ServerProcess,
    trainer: Peer,
    explorer: Peer,
    results: Results,
    version: int,
    *,
    counts: bool,
) -> None:
    samples: dict[str, Sample] = {}
    explorer.start("receive")
    sent: Timed = trainer.call("send")
    received: Timed = explorer.result()
    samples[SOCKET] = Sample(sent[0], {"sender": sent[1], "receiver": received[1]})

    before = server.cpu_seconds()
    pushed, digest = trainer.call("push", version)
    samples[PUSH] = Sample(
        pushed[0], {"client": pushed[1], "server": server.cpu_seconds() - before}
    )

    before = server.cpu_seconds()
    pulled, got = explorer.call("pull", version)
    samples[PULL] = Sample(
        pulled[0], {"client": pulled[1], "server": server.cpu_seconds() - before}
    )
    if got != digest:
        raise RuntimeError(f"version {version} was pushed as {digest} and pulled as {got}")
    if counts:
        for way, sample in samples.items():
            results.samples[way].append(sample)


def _line(results: Results, number: int, repeat: int) -> str:
    if not number:
        return f"warmed up with {results.size_bytes / GIB:.2f} GiB"
    rates = ", ".join(f"{way} {results.rates(way)[-1]:.2f}" for way in WAYS)
    return f"round {number} of {repeat}: {rates} GiB/s"


def summary(results: Results) -> dict[str, Any]:
    """Way -> rates, ratios and CPU seconds; ready for JSON."""
    return {
        way: {
            "gib_per_s": _spread(results.rates(way)),
            "ratio_to_plain_socket": _spread(results.ratios(way)),
            "cpu_seconds_per_gib": {
                process: round(seconds, 3) for process, seconds in results.cpu_per_gib(way).items()
            },
            "seconds": [round(sample.seconds, 4) for sample in results.samples[way]],
        }
        for way in WAYS
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }
