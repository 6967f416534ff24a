"""The measurement: every way once, and again, so that all of them see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import machine, rivals
from benchmarks.peers import Peer
from benchmarks.processes import Service, Watch, anonymous_bytes
from benchmarks.results import Results, Sample
from benchmarks.roles import Timed
from benchmarks.server import blob_directory, running_server
from benchmarks.ways import GIB, MAPPED, MEMCPY, SOCKET, TRANSPORTS, both

KEPT_VERSIONS = 2
# From then on a push is written into the file of a retired version, as it is in a long run, and
# the trainer has mapped each of those files.
WARM_UP_ROUNDS = KEPT_VERSIONS + 1


@dataclass(frozen=True)
class Plan:
    """What to measure: bytes, rounds that count, explorers that pull at once, and against whom."""

    size_bytes: int
    repeat: int
    explorers: int = 1
    rivals: tuple[str, ...] = ()
    fresh: bool = False
    """With processes that have done nothing before; see `model.work`."""
    keep_versions: int = KEPT_VERSIONS

    def memory_bytes(self) -> int:
        """About what all processes and files hold at once; measured, and rounded up."""
        payloads = 2 + self.explorers + self.keep_versions + 1  # with the references' buffer
        if "flight" in self.rivals:
            payloads += 3 + self.explorers
        if "ray" in self.rivals:
            payloads += 4 + 4 * self.explorers
        return payloads * self.size_bytes


def measure(plan: Plan, say: Callable[[str], None]) -> Results:
    """Warm-up rounds that are kept apart, then those that count.

    Every pull must give the digest of the push before it. Raises RuntimeError.
    """
    parent = blob_directory(plan.size_bytes, plan.keep_versions + 1)
    with ExitStack() as stack:
        server = stack.enter_context(
            running_server(parent, plan.keep_versions, shared_memory=True, http=True)
        )
        services = {
            name: stack.enter_context(rivals.running(name, plan.size_bytes, plan.explorers))
            for name in plan.rivals
        }
        trainer, *explorers = (
            stack.enter_context(Peer(kind, server.address, plan.size_bytes, fresh=plan.fresh))
            for kind in ("trainer", *["explorer"] * plan.explorers)
        )
        trainer.call("connect", explorers[0].call("listen"))
        explorers[0].call("accept")
        for name, service in services.items():
            for peer in (trainer, *explorers):
                peer.call("join", name, service.address)
        total = trainer.call("total_bytes")
        results = Results(total, parent is not None, plan.fresh, plan.explorers, plan.rivals)
        results.load_before = machine.load()
        warm_up_rounds = plan.keep_versions + 1
        for number in range(1, warm_up_rounds + plan.repeat + 1):
            found = _Round(trainer, explorers).run(server, services, number * len(TRANSPORTS))
            results.add(found, warm_up=number <= warm_up_rounds)
            say(_line(found, total, number - warm_up_rounds, plan.repeat))
        results.load_after = machine.load()
    return results


class _Round:
    def __init__(self, trainer: Peer, explorers: Sequence[Peer]) -> None:
        self._trainer, self._explorers = trainer, explorers
        self._base = {peer: anonymous_bytes(peer.pid) for peer in (trainer, *explorers)}

    def run(self, server: Service, services: dict[str, Service], version: int) -> dict[str, Sample]:
        found = self._references(server)
        for transport in TRANSPORTS:
            push, pull = both(transport)
            found[push] = self._push(server, "push", version, transport)
            digest = self._trainer.call("digest")
            if transport == "shared-memory":  # first, so that nothing of the version is known
                found[MAPPED] = self._pull(server, "map", version)
                self._check(MAPPED, "mapped_digest", digest)
            found[pull] = self._pull(server, "pull", version, transport)
            self._check(pull, "digest", digest)
            version += 1
        for name, service in services.items():
            push, pull = both(name)
            found[push] = self._push(service, "push_to", name)
            digest = self._trainer.call("digest")
            found[pull] = self._pull(service, "pull_from", name)
            self._check(pull, "digest", digest)
        return found

    def _references(self, server: Service) -> dict[str, Sample]:
        first = self._explorers[0]
        # Watched only because the others are: watching takes a little of the CPU.
        with Watch(server, "explorer", {first.pid: self._base[first]}):
            first.start("receive")
            sent: Timed = self._trainer.call("send")
            received: Timed = first.result()
            copied: Timed = first.call("memcpy")
        return {
            SOCKET: Sample(sent[1] - sent[0], {"sender": sent[2], "receiver": received[2]}),
            MEMCPY: Sample(copied[1] - copied[0], {"client": copied[2]}),
        }

    def _push(self, service: Service, method: str, *arguments: object) -> Sample:
        return self._sample(service, "trainer", [self._trainer], method, *arguments)

    def _pull(self, service: Service, method: str, *arguments: object) -> Sample:
        return self._sample(service, "explorer", self._explorers, method, *arguments)

    def _sample(
        self, service: Service, role: str, peers: Sequence[Peer], method: str, *arguments: object
    ) -> Sample:
        with Watch(service, role, {peer.pid: self._base[peer] for peer in peers}) as watch:
            before = service.cpu_seconds()
            for peer in peers:
                peer.start(method, *arguments)
            taken: list[Timed] = [peer.result() for peer in peers]
            cpu = {"client": sum(t[2] for t in taken), "server": service.cpu_seconds() - before}
        seconds = max(end for _, end, _ in taken) - min(begin for begin, _, _ in taken)
        each = tuple(end - begin for begin, end, _ in taken)
        return Sample(seconds, cpu, each, watch.peaks)

    def _check(self, way: str, method: str, digest: str) -> None:
        for number, peer in enumerate(self._explorers):
            if (got := peer.call(method)) != digest:
                raise RuntimeError(f"{way}: explorer {number} has {got}, {digest} was pushed")


def _line(found: dict[str, Sample], size_bytes: int, number: int, repeat: int) -> str:
    what = f"round {number} of {repeat}" if number > 0 else "warming up"
    rates = (
        f"{way} {size_bytes * sample.receivers / GIB / sample.seconds:.2f}"
        for way, sample in found.items()
    )
    return f"{what}: {', '.join(rates)} GiB/s"
