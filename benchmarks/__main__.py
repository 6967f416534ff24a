"""`python -m benchmarks`: measures and reports."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import machine, rivals
from benchmarks.picture import save_picture
from benchmarks.report import TARGETS, as_dict, print_tables, write_json
from benchmarks.rounds import KEPT_VERSIONS, Plan, measure
from benchmarks.ways import GIB

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark. 0: measured, and the targets reached if `--check` asked for it.

    1: below a target. 2: it can't be run so; one line on stderr says why.
    """
    options = _parser().parse_args(arguments)
    plan = Plan(
        options.size,
        options.repeat,
        options.explorers,
        options.rivals,
        options.fresh,
        options.keep_versions,
    )
    refusal = rivals.missing(plan.rivals) or _too_large(plan, options.memory)
    if refusal is not None:
        print(refusal, file=sys.stderr)
        return 2
    # As Ctrl-C: whatever was started is ended, and its files go.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    report = as_dict(measure(plan, _say))
    print_tables(report)
    if options.json is not None:
        write_json(report, options.json)
    if options.picture is not None:
        save_picture(report, options.picture)
    if options.check:
        slow = [
            (way, target)
            for way, target in TARGETS.items()
            if report["ways"][way]["ratio_to_plain_socket"]["median"] < target
        ]
        for way, target in slow:
            print(f"{way} is below {target} x the plain socket", file=sys.stderr)
        return int(bool(slow))
    return 0


def _too_large(plan: Plan, limit: int) -> str | None:
    need, there = plan.memory_bytes(), machine.available_memory()
    room, what = min((limit, "--memory allows"), (there, "the machine has available"))
    if need <= room:
        return None
    return (
        f"this would take about {need / GIB:.1f} GiB of memory, and {what} {room / GIB:.1f}: "
        "use a smaller --size or fewer --explorers"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--size", type=_size, default="1GiB", help="bytes of weights, such as 64MiB (default 1GiB)")
    add("--repeat", type=_count, default=7, help="rounds that count (default 7, at least 1)")
    add(
        "--explorers", type=_count, default=1, metavar="N", help="how many pull at once (default 1)"
    )
    add(
        "--with",
        dest="rivals",
        type=_rivals,
        default=(),
        metavar="RIVALS",
        help="measure others beside it: flight (pyarrow), ray, or flight,ray",
    )
    add("--fresh", action="store_true", help="with processes that have done no work before")
    add(
        "--keep-versions",
        type=_count,
        default=KEPT_VERSIONS,
        metavar="N",
        help=f"versions that the server keeps (default {KEPT_VERSIONS}; 1 takes least memory)",
    )
    add(
        "--memory",
        type=_size,
        default="20GiB",
        help="what all processes may take together; more is refused (default 20GiB)",
    )
    add("--json", type=Path, metavar="FILE", help="write everything measured there")
    add("--picture", type=Path, metavar="FILE", help="write a picture (PNG) there")
    add("--check", action="store_true", help="exit 1 below the targets")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _size(text: str) -> int:
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and int(number):
            return int(number) * factor
    raise argparse.ArgumentTypeError(f"{text!r} is no size: use 64MiB, 1GiB and the like")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is too few: 1 or more are needed")


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in rivals.PACKAGES:
            known = ", ".join(rivals.PACKAGES)
            raise argparse.ArgumentTypeError(f"{name!r} is none of {known}")
    return names


if __name__ == "__main__":
    sys.exit(main())
