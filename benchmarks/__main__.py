"""`python -m benchmarks`: measures and reports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.report import TARGETS, as_dict, print_table, save_picture, write_json
from benchmarks.rounds import measure

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark. 0: measured, and the target reached if `--check` asked for it; else 1."""
    options = _parser().parse_args(arguments)
    report = as_dict(measure(options.size, options.repeat, _say, fresh=options.fresh))
    print_table(report)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--size", type=_size, default="1GiB", help="bytes of weights, such as 64MiB (default 1GiB)"
    )
    parser.add_argument(
        "--repeat", type=_repeat, default=7, help="rounds that count (default 7, at least 1)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="with processes that have done no work before"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a picture (PNG) there")
    parser.add_argument("--check", action="store_true", help="exit 1 below the targets")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _size(text: str) -> int:
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and int(number):
            return int(number) * factor
    raise argparse.ArgumentTypeError(f"{text!r} is no size: use 64MiB, 1GiB and the like")


def _repeat(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} rounds: 1 or more are needed")


if __name__ == "__main__":
    sys.exit(main())
