"""The results as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.rounds import GIB, PUSH, SOCKET, TRANSFERS, TRANSPORTS, WAYS, Results, summary

TARGETS = {"push grpc": 0.45, "pull grpc": 0.45, "push http": 1.0, "pull http": 1.3}
"""What is to be reached, as a multiple of the plain socket's rate."""


def as_dict(results: Results) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "benchmark": "one state dict over each transport beside a plain TCP loopback socket",
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load_average": {"before": results.load_before, "after": results.load_after},
        "size_bytes": results.size_bytes,
        "rounds": len(results.samples[SOCKET]),
        "blobs_on_tmpfs": results.blobs_on_tmpfs,
        "fresh_processes": results.fresh_processes,
        "first_pushes_seconds": {
            transport: [round(s.seconds, 4) for s in results.warm_up[PUSH.format(transport)]]
            for transport in TRANSPORTS
        },
        "server_anonymous_mib_peak": round(results.server_anonymous_bytes / 2**20, 1),
        "target_ratios": TARGETS,
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
    first = "; ".join(
        f"{transport} {', '.join(f'{seconds:.2f} s' for seconds in taken)}"
        for transport, taken in report["first_pushes_seconds"].items()
    )
    console.print(f"the first pushes, in turns: {first}", highlight=False)
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

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    base = report["ways"][SOCKET]["seconds"]
    for index, way in enumerate(TRANSFERS):
        row = report["ways"][way]
        axes.barh(index, row["ratio_to_plain_socket"]["median"], height=0.55, color="#4477aa")
        dots = [other / own for other, own in zip(base, row["seconds"], strict=True)]
        axes.plot(dots, [index] * len(dots), "o", color="#222222", markersize=4)
        if way in TARGETS:
            target = TARGETS[way]
            axes.plot([target] * 2, [index - 0.4, index + 0.4], color="#cc3311", label="target")
    axes.axvline(1.0, color="#888888", linestyle=":", label="plain socket")
    axes.set_yticks(range(len(TRANSFERS)), TRANSFERS)
    axes.invert_yaxis()
    axes.set_xlabel("rate over that of a plain TCP loopback socket in the same round")
    axes.set_title(
        f"{report['size_bytes'] / GIB:.2f} GiB over each transport: median of "
        f"{report['rounds']} rounds, dots: rounds",
        fontsize=10,
    )
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"
