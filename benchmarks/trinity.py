"""A state dict through Trinity-RFT's Synchronizer: our handle beside upstream's Ray actor.

Upstream's side is the Synchronizer class of trinity-rft 0.6.0, unchanged, as the Ray actor that
its own `get_actor` makes. A round is a push of new values, a pull of the whole state dict and a
pull by the iterator, on one side and then on the other.

    python -m benchmarks.trinity                 # ours alone
    pip install ray && pip install --no-deps trinity-rft==0.6.0
    python -m benchmarks.trinity --ray
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.rounds import KEPT_VERSIONS, WARM_UP_ROUNDS
from benchmarks.server import blob_directory, running_server
from benchmarks.trinity_sides import OurSide, RaySide
from benchmarks.ways import GIB

PUSH, PULL, ITERATE = "set_model_state_dict", "get_model_state_dict", "iterator"
WAYS = (PUSH, PULL, ITERATE)
CHECKED = (PUSH, PULL)
TARGET = 4.0
"""How many times faster than the Ray actor a push and a pull are to be."""

Seconds = dict[str, list[float]]
"""Way -> seconds of each round."""


def measure(
    sides: list[Any], repeat: int, say: Callable[[str], None]
) -> tuple[dict[str, Seconds], dict[str, Seconds]]:
    """Name of a side -> seconds, of the warm-up rounds and of the `repeat` rounds that count.

    Items of one index come from the same round. Raises RuntimeError where what was pulled is
    not bit for bit what was pushed.
    """
    warm_up: dict[str, Seconds] = {side.name: {way: [] for way in WAYS} for side in sides}
    samples: dict[str, Seconds] = {side.name: {way: [] for way in WAYS} for side in sides}
    for version in range(1, WARM_UP_ROUNDS + repeat + 1):
        number = version - WARM_UP_ROUNDS
        what = f"round {number} of {repeat}" if number > 0 else "warming up"
        # Taking turns at being first, so that neither always finds what the other one left.
        for side in sides if version % 2 else reversed(sides):
            found = _round(side, version)
            for way, seconds in found.items():
                (samples if number > 0 else warm_up)[side.name][way].append(seconds)
            times = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in found.items())
            say(f"{what}: {side.name}: {times}")
    return warm_up, samples


def _round(side: Any, version: int) -> dict[str, float]:
    pushed, digest = side.call("Trainer", "push", version)
    pulled, got = side.call("Explorer", "pull", version)
    iterated, streamed = side.call("Explorer", "iterate")
    for way, found in ((PULL, got), (ITERATE, streamed)):
        if found != digest:
            raise RuntimeError(f"{side.name}: {way} gave {found} for the {digest} that was pushed")
    return {PUSH: pushed, PULL: pulled, ITERATE: iterated}


def summary(samples: dict[str, Seconds]) -> dict[str, Any]:
    """Side -> way -> seconds, and way -> how many times faster ours was in the same round."""
    result: dict[str, Any] = {
        name: {way: _spread(seconds) for way, seconds in ways.items()}
        for name, ways in samples.items()
    }
    if RaySide.name in samples:
        ours, ray = samples[OurSide.name], samples[RaySide.name]
        result["times faster"] = {
            way: _spread([its / our for its, our in zip(ray[way], ours[way], strict=True)])
            for way in WAYS
        }
    return result


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _print_table(medians: dict[str, Any]) -> None:
    print(f"| | {' | '.join(WAYS)} |")
    print(f"|---|{'---|' * len(WAYS)}")
    for name, ways in medians.items():
        unit, digits = ("x", 1) if name == "times faster" else (" s", 2)
        cells = (
            f"{row['median']:.{digits}f}{unit} ({row['min']:.{digits}f} to {row['max']:.{digits}f})"
            for row in (ways[way] for way in WAYS)
        )
        print(f"| {name} | {' | '.join(cells)} |")


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError("more than 0 is wanted")
        return value

    return parse


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints. 0; 1 where `--check` asked for the target and it was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trinity", description=__doc__)
    parser.add_argument(
        "--rounds", type=_positive(int), default=7, help="rounds that count (default 7)"
    )
    parser.add_argument(
        "--gib", type=_positive(float), default=1.0, help="size of the state dict (default 1)"
    )
    parser.add_argument("--ray", action="store_true", help="measure upstream's actor beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit 1 unless push and pull are {TARGET:g} times as fast as on Ray",
    )
    options = parser.parse_args(arguments)
    if options.check and not options.ray:
        parser.error("--check needs --ray")
    size_bytes = round(options.gib * GIB)
    parent = blob_directory(size_bytes)
    before = machine.load()
    with running_server(parent, KEPT_VERSIONS) as server, ExitStack() as stack:
        sides: list[Any] = [OurSide(server.address, size_bytes)]
        stack.callback(sides[0].close)
        if options.ray:
            sides.append(RaySide(size_bytes))
            stack.callback(sides[1].close)
        total = sides[0].call("Trainer", "total_bytes")
        warm_up, samples = measure(sides, options.rounds, lambda line: print(line, flush=True))
    medians = summary(samples)
    load = {"before": before, "after": machine.load()}
    _print_table(medians)
    print(f"{total / GIB:.2f} GiB, rounds: {options.rounds}, medians (lowest to highest);", end=" ")
    print(f"load average {load['before']} before, {load['after']} after")
    if options.json is not None:
        document = {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "packages": sides[-1].packages(),
            "load_average": load,
            "size_bytes": total,
            "blobs_on_tmpfs": parent is not None,
            "summary": medians,
            "seconds": samples,
            "warm_up_seconds": warm_up,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    slow = [
        way for way in CHECKED if options.check and medians["times faster"][way]["median"] < TARGET
    ]
    for way in slow:
        print(f"{way} is not {TARGET:g} times as fast as on the Ray actor", file=sys.stderr)
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
