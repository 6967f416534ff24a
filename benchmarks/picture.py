"""The results as a picture. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import TARGETS
from benchmarks.ways import MAPPED, OURS, SOCKET, size_text

_OURS, _OTHERS = "#4477aa", "#bbbbbb"
_ROOM = 1.35  # beyond the longest bar that is drawn whole, for its figure


def save_picture(report: dict[str, Any], path: Path) -> None:
    """The ratios of all ways as bars with one dot a round.

    A mapped pull moves no bytes: its bar is cut off where it would make the others invisible.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ways = [way for way in report["ways"] if way != SOCKET]
    figure, axes = plt.subplots(figsize=(7.2, 1.6 + 0.36 * len(ways)), layout="constrained")
    dots = {way: _dots(report, way) for way in ways}
    end = max(max(values) for way, values in dots.items() if way != MAPPED) * _ROOM
    for index, way in enumerate(ways):
        middle = report["ways"][way]["ratio_to_plain_socket"]["median"]
        axes.barh(index, middle, height=0.6, color=_OURS if way in OURS else _OTHERS)
        shown = [value for value in dots[way] if value < end]
        axes.plot(shown, [index] * len(shown), "o", color="#222222", markersize=3)
        beside = min(max([middle, *shown]), end * 0.9) + end * 0.012
        ink = "white" if middle > end else "black"
        axes.text(beside, index, f"{middle:.2f}", va="center", fontsize=8, color=ink)
        if way in TARGETS and report["explorers"] == 1:
            target = TARGETS[way]
            axes.plot([target] * 2, [index - 0.4, index + 0.4], color="#cc3311", label="target")
    axes.axvline(1.0, color="#888888", linestyle=":", label="plain socket")
    axes.set_xlim(0, end)
    axes.set_yticks(range(len(ways)), ways)
    axes.invert_yaxis()
    axes.set_xlabel("rate over that of a plain TCP loopback socket in the same round")
    several = f", {report['explorers']} explorers together" if report["explorers"] > 1 else ""
    axes.set_title(
        f"{size_text(report['size_bytes'])}{several}: median of "
        f"{report['rounds']} rounds, dots: rounds",
        fontsize=10,
    )
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _dots(report: dict[str, Any], way: str) -> list[float]:
    rows = report["ways"]
    copies = report["explorers"] if "slowest_over_fastest" in rows[way] else 1
    pairs = zip(rows[SOCKET]["seconds"], rows[way]["seconds"], strict=True)
    return [copies * other / own for other, own in pairs]
