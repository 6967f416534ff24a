"""The results as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.rounds import GIB, PUSH, SOCKET, WAYS, Results, summary

TARGET = 0.45
"""What push and pull are to reach, as a share of the plain socket's rate."""


def as_dict(results: Results) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "benchmark": "one state dict through gRPC beside a plain TCP loopback socket",
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load_average": {"before": results.load_before, "after": results.load_after},
        "size_bytes": results.size_bytes,
        "rounds": len(results.samples[SOCKET]),
        "blobs_on_tmpfs": results.blobs_on_tmpfs,
        "fresh_processes": results.fresh_processes,
        "first_pushes_seconds": [round(s.seconds, 4) for s in results.warm_up[PUSH]],
        "server_anonymous_mib_peak": round(results.server_anonymous_bytes / 2**20, 1),
        "target_ratio": TARGET,
        "ways": summary(results),
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """Writes `as_dict`'s result."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def print_table(report: dict[str, Any]) -> None:
    """The table, and whether the target was reached, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{report['size_bytes'] / GIB:.2f} GiB of bf16, {report['rounds']} rounds, "
        "medians (lowest to highest)",
        box=box.SIMPLE,
    )
    table.add_column("way")
    table.add_column("GiB/s", justify="right")
    table.add_column("x plain socket", justify="right")
    table.add_column("CPU s/GiB", justify="right")
    for way in WAYS:
        row = report["ways"][way]
        cpu = ", ".join(f"{who} {value:.2f}" for who, value in row["cpu_seconds_per_gib"].items())
        table.add_row(way, _text(row["gib_per_s"]), _text(row["ratio_to_plain_socket"]), cpu)
    console = Console(width=max(100, Console().width))
    console.print(table)
    load = report["load_average"]
    first = ", ".join(f"{seconds:.2f} s" for seconds in report["first_pushes_seconds"])
    console.print(f"the first pushes, into fresh memory: {first}", highlight=False)
    console.print(
        f"server memory without blobs: {report['server_anonymous_mib_peak']} MiB at most; "
        f"load average {load['before']} before, {load['after']} after",
        highlight=False,
    )


def save_picture(report: dict[str, Any], path: Path) -> None:
    """The ratios as bars with one dot a round. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ways = [way for way in WAYS if way != SOCKET]
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    base = report["ways"][SOCKET]["seconds"]
    for index, way in enumerate(ways):
        row = report["ways"][way]
        axes.barh(index, row["ratio_to_plain_socket"]["median"], height=0.55, color="#4477aa")
        dots = [other / own for other, own in zip(base, row["seconds"], strict=True)]
        axes.plot(dots, [index] * len(dots), "o", color="#222222", markersize=4)
    axes.axvline(TARGET, color="#cc3311", linestyle="--", label=f"target {TARGET}")
    axes.axvline(1.0, color="#888888", linestyle=":", label="plain socket")
    axes.set_yticks(range(len(ways)), ways)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("rate over that of a plain TCP loopback socket in the same round")
    axes.set_title(
        f"{report['size_bytes'] / GIB:.2f} GiB through gRPC: median of "
        f"{report['rounds']} rounds, dots: rounds",
        fontsize=10,
    )
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"
