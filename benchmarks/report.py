"""The results as JSON and as tables."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.results import MIB, Results, summary
from benchmarks.ways import MAPPED, PUSH, REFERENCES, SOCKET, TRANSPORTS, size_text

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 150  # of the widest table

TARGETS = {"push grpc": 0.45, "pull grpc": 0.45, "push http": 1.0, "pull http": 1.3}
"""What is to be reached, as a multiple of the plain socket's rate."""

NOTES = (
    "weightsync's times include the digests at both ends; the rivals check nothing, and what they "
    "brought was compared outside of the timing, as was everything else",
    "CPU: of the clients, all together, + of the server, for each GiB that arrived",
    "with several explorers a rate is that of all together, from the first begin to the last end; "
    "the plain socket and memcpy are always one stream of one explorer",
    "memory: the most that a process held of its own (RssAnon, every 10 ms); extra: beyond what "
    "the trainer, or the explorer with most, held when the transfer began, in brackets when the "
    "round began (what an earlier way kept counts there); stored: blob files, or the object store",
)


def as_dict(results: Results) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "benchmark": "one state dict over each transport beside a plain TCP loopback socket",
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load_average": {"before": results.load_before, "after": results.load_after},
        "size_bytes": results.size_bytes,
        "explorers": results.explorers,
        "rivals": list(results.rivals),
        "rounds": len(results.samples[SOCKET]),
        "blobs_on_tmpfs": results.blobs_on_tmpfs,
        "fresh_processes": results.fresh_processes,
        "first_pushes_seconds": {
            name: [round(s.seconds, 4) for s in results.warm_up[PUSH.format(name)]]
            for name in (*TRANSPORTS, *results.rivals)
        },
        "server_anonymous_mib_peak": round(results.server_anonymous_bytes() / MIB, 1),
        "target_ratios": TARGETS,
        "notes": list(NOTES),
        "ways": summary(results),
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """Writes `as_dict`'s result."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def print_tables(report: dict[str, Any]) -> None:
    """The tables, and what they mean, on standard output."""
    from rich.console import Console

    console = Console(width=max(_WIDTH, Console().width))
    console.print(_speed(report))
    console.print(_memory(report))
    if report["explorers"] > 1:
        console.print(_fairness(report))
    load = report["load_average"]
    first = "; ".join(
        f"{name} {', '.join(f'{seconds:.2f} s' for seconds in taken)}"
        for name, taken in report["first_pushes_seconds"].items()
    )
    for line in (
        f"the first pushes, in turns: {first}",
        f"server memory without blobs: {report['server_anonymous_mib_peak']} MiB at most; "
        f"load average {load['before']} before, {load['after']} after",
        *report["notes"],
    ):
        console.print(line, highlight=False)


def _speed(report: dict[str, Any]) -> Table:
    several = f", {report['explorers']} explorers" if report["explorers"] > 1 else ""
    table = _table(
        f"{size_text(report['size_bytes'])} of bf16, {report['rounds']} rounds{several}, "
        "medians (lowest to highest)",
        *("seconds", "GiB/s", "x plain socket", "x memcpy time"),
        *(f"x {rival}" for rival in report["rivals"]),
        "CPU s/GiB",
    )
    for way, row in report["ways"].items():
        rivals = (row.get("ratio_to", {}).get(rival) for rival in report["rivals"])
        table.add_row(
            way,
            f"{median(row['seconds']):.4f}",
            _text(row["gib_per_s"]) if way != MAPPED else "",  # no byte is moved
            _text(row["ratio_to_plain_socket"]),
            f"{row['times_memcpy']['median']:.2f}",
            *(f"{ratio['median']:.1f}" if ratio else "" for ratio in rivals),
            " + ".join(f"{value:.2f}" for value in row["cpu_seconds_per_gib"].values()),
        )
    return table


def _memory(report: dict[str, Any]) -> Table:
    table = _table("peak memory in MiB", "server", "trainer's extra", "explorer's extra", "stored")
    for way, row in report["ways"].items():
        if way not in REFERENCES:
            peaks = row["peak_memory_mib"]
            extras = (_extra(peaks, role) for role in ("trainer", "explorer"))
            table.add_row(way, f"{peaks['server']:.0f}", *extras, f"{peaks['stored']:.0f}")
    return table


def _extra(peaks: dict[str, float], role: str) -> str:
    if f"{role}_extra" not in peaks:
        return ""
    return f"{peaks[f'{role}_extra']:.0f} ({peaks[f'{role}_extra_of_round']:.0f})"


def _fairness(report: dict[str, Any]) -> Table:
    table = _table("each explorer", "GiB/s of each", "slowest over fastest")
    for way, row in report["ways"].items():
        if "slowest_over_fastest" in row:
            each = row["gib_per_s_of_each_explorer"]
            table.add_row(way, _text(each), _text(row["slowest_over_fastest"]))
    return table


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE)
    table.add_column("way", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"
