"""The measurement: the plain socket, then push and pull each way, and again, so that all of them
see the same machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.peers import Peer, Timed
from benchmarks.server import ServerProcess, blob_directory, running_server

GIB = 2**30
SOCKET = "plain socket"
TRANSPORTS = ("grpc", "http", "shared-memory")
PUSH, PULL = "push {}", "pull {}"
TRANSFERS = tuple(way.format(transport) for transport in TRANSPORTS for way in (PUSH, PULL))
WAYS = (SOCKET, *TRANSFERS)
KEPT_VERSIONS = 2
# From then on a push is written into the file of a retired version, as it is in a long run, and
# the trainer has mapped each of those files.
WARM_UP_ROUNDS = KEPT_VERSIONS + 1


@dataclass(frozen=True)
class Sample:
    """One transfer: wall seconds, and CPU seconds of each process that took part."""

    seconds: float
    cpu: dict[str, float]


@dataclass
class Results:
    """Everything that was measured in one run. Samples of one index come from the same round."""

    size_bytes: int
    blobs_on_tmpfs: bool
    fresh_processes: bool
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {way: [] for way in WAYS})
    warm_up: dict[str, list[Sample]] = field(default_factory=lambda: {way: [] for way in WAYS})
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


def measure(
    size_bytes: int, repeat: int, say: Callable[[str], None], *, fresh: bool = False
) -> Results:
    """Warm-up rounds that are kept apart, then `repeat` rounds of the socket and all transfers.

    `fresh`: with processes that have done nothing before; see `model.work`. Each pull must give
    the digest of the push before it. Raises RuntimeError.
    """
    parent = blob_directory(size_bytes)
    with (
        running_server(parent, KEPT_VERSIONS, shared_memory=True, http=True) as server,
        Peer("trainer", server.address, size_bytes, fresh=fresh) as trainer,
        Peer("explorer", server.address, size_bytes, fresh=fresh) as explorer,
    ):
        trainer.call("connect", explorer.call("port"))
        explorer.call("accept")
        results = Results(trainer.call("total_bytes"), parent is not None, fresh)
        results.load_before = machine.load()
        with server.watching_memory() as peak:
            for number in range(1, WARM_UP_ROUNDS + repeat + 1):
                found = _round(server, trainer, explorer, number * len(TRANSPORTS))
                warm = number > WARM_UP_ROUNDS
                for way, sample in found.items():
                    (results.samples if warm else results.warm_up)[way].append(sample)
                say(_line(found, results.size_bytes, number - WARM_UP_ROUNDS, repeat))
        results.server_anonymous_bytes = peak[0]
        results.load_after = machine.load()
    return results


def _round(server: ServerProcess, trainer: Peer, explorer: Peer, first: int) -> dict[str, Sample]:
    explorer.start("receive")
    sent: Timed = trainer.call("send")
    received: Timed = explorer.result()

    found = {SOCKET: Sample(sent[0], {"sender": sent[1], "receiver": received[1]})}
    for version, transport in enumerate(TRANSPORTS, first):
        at_push = server.cpu_seconds()
        pushed, digest = trainer.call("push", version, transport)
        at_pull = server.cpu_seconds()
        pulled, got = explorer.call("pull", version, transport)
        at_end = server.cpu_seconds()
        if got != digest:
            raise RuntimeError(f"version {version} was pushed as {digest} and pulled as {got}")
        push = Sample(pushed[0], {"client": pushed[1], "server": at_pull - at_push})
        pull = Sample(pulled[0], {"client": pulled[1], "server": at_end - at_pull})
        found[PUSH.format(transport)], found[PULL.format(transport)] = push, pull
    return found


def _line(found: dict[str, Sample], size_bytes: int, number: int, repeat: int) -> str:
    what = f"round {number} of {repeat}" if number > 0 else "warming up"
    rates = (f"{way} {size_bytes / GIB / sample.seconds:.2f}" for way, sample in found.items())
    return f"{what}: {', '.join(rates)} GiB/s"


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
