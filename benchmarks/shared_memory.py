"""A version through the server's own files, beside memcpy and gRPC in the same rounds.

    python -m benchmarks.shared_memory --gib 1 --rounds 7

A round: every tensor gets new values; memcpy of as many bytes into warm memory; a push into the
server's segment; a mapped pull (until its tensors can be used); a pull into one's own tensors;
and a pull over gRPC into them. What was pulled is compared with what was pushed, untimed. The
first rounds, in which segments are made, are told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.model import make_state_dict, total_bytes
from benchmarks.server import blob_directory, running_server
from sync_client import SyncClient

_COLD_ROUNDS = 4  # two versions are kept and one is spare: from then on segments are used again
MEMCPY, PUSH, MAP, INTO, GRPC = (
    "memcpy", "push into a segment", "mapped pull", "pull into= by copy", "pull into= over gRPC"
)  # fmt: skip

Weights = dict[str, torch.Tensor]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _change(weights: Weights) -> None:
    for tensor in weights.values():
        tensor.view(torch.int16).add_(1)


def _compare(found: Weights, weights: Weights) -> None:
    # As integers: random bytes are also NaNs, which equal nothing.
    if not all(
        torch.equal(found[k].view(torch.int16), t.view(torch.int16)) for k, t in weights.items()
    ):
        raise RuntimeError("what was pulled is not what was pushed")


def measure(size_bytes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by way; the cold rounds come first."""
    weights = make_state_dict(size_bytes)
    own = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    copied = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    taken: dict[str, list[float]] = {way: [] for way in (MEMCPY, PUSH, MAP, INTO, GRPC)}

    def memcpy() -> None:
        for name, tensor in weights.items():
            copied[name].copy_(tensor)

    with (
        running_server(blob_directory(4 * size_bytes), shared_memory=True) as server,
        SyncClient(server.address) as trainer,
        SyncClient(server.address) as explorer,
    ):
        for version in range(1, rounds + _COLD_ROUNDS + 1):
            _change(weights)
            taken[MEMCPY].append(_timed(memcpy))
            way = "shared-memory"
            taken[PUSH].append(_timed(lambda: trainer.push(weights, version, transport=way)))  # noqa: B023 - called at once
            started = time.perf_counter()
            mapped = explorer.pull(version, transport=way)
            taken[MAP].append(time.perf_counter() - started)
            taken[INTO].append(_timed(lambda: explorer.pull(version, into=own, transport=way)))  # noqa: B023 - called at once
            _compare(dict(mapped.state_dict), weights)
            _compare(own, weights)
            del mapped
            taken[GRPC].append(_timed(lambda: explorer.pull(version, into=own, transport="grpc")))  # noqa: B023 - called at once
            _compare(own, weights)
    return taken


def _report(taken: dict[str, list[float]], size_bytes: int) -> dict[str, Any]:
    base = statistics.median(taken[MEMCPY][_COLD_ROUNDS:])
    ways = {}
    for way, seconds in taken.items():
        warm = seconds[_COLD_ROUNDS:]
        middle = statistics.median(warm)
        ways[way] = {
            "first": [round(s, 4) for s in seconds[:_COLD_ROUNDS]],
            "seconds": [round(s, 4) for s in warm],
            "median": round(middle, 4),
            "times_memcpy": round(middle / base, 2),
        }
    return {"size_bytes": size_bytes, "machine": machine.describe(), "ways": ways}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    size = total_bytes(make_state_dict(int(arguments.gib * 2**30)))
    report = _report(measure(int(arguments.gib * 2**30), arguments.rounds), size)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = ["| way | median | of all rounds | x memcpy | first rounds |", "|---|---|---|---|---|"]
    for way, found in report["ways"].items():
        spread = f"{min(found['seconds']):.3f} to {max(found['seconds']):.3f}"
        first = ", ".join(f"{s:.2f}" for s in found["first"])
        lines.append(
            f"| {way} | {found['median']:.4f} s | {spread} | {found['times_memcpy']} | {first} |"
        )
    sys.stdout.write("\n".join(lines) + f"\n{size / 2**30:.2f} GiB, {arguments.rounds} rounds\n")


if __name__ == "__main__":
    main()
