"""The demo's picture: reward and version over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client.demo.story import Story, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE = 1 / 26  # `task.CHANCE`, without importing torch
_TRAINER = "#333333"
_EXPLORERS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")
_WINDOW = 9  # batches in the moving mean of the reward
_ZOOM_VERSIONS = 8


def draw(story: Story, summary: Summary, path: Path) -> None:
    """Draws into `path`, a PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1))
    reward = figure.add_subplot(grid[0, :])
    versions = figure.add_subplot(grid[1, 0], sharex=reward)
    zoom = figure.add_subplot(grid[1, 1])
    figure.suptitle(
        f"weightsync demo: reward {summary.start_reward:.2f} → {summary.final_reward:.2f} in "
        f"{summary.steps} steps and {summary.seconds:.1f} s"
        + ("" if summary.pulls else ", explorers without new weights"),
        fontsize=13,
        fontweight="bold",
    )
    _draw_reward(reward, story)
    _draw_versions(versions, story)
    _draw_zoom(zoom, versions, story, summary)
    for axes in (reward, versions, zoom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("time since the first push (s)")
    figure.savefig(path)


def _colour(index: int) -> str:
    return _EXPLORERS[index % len(_EXPLORERS)]


def _draw_reward(axes: Axes, story: Story) -> None:
    for index, name in enumerate(story.explorers):
        times = [act.ended - story.start for act in story.acts[name]]
        rewards = [act.reward for act in story.acts[name]]
        axes.plot(times, rewards, ".", color=_colour(index), alpha=0.3, markersize=4)
        axes.plot(times, _moving_mean(rewards), color=_colour(index), label=name, linewidth=1.8)
    axes.axhline(CHANCE, color="grey", linestyle=":", linewidth=1.2)
    axes.annotate(
        f"chance, {CHANCE:.2f}",
        (1, CHANCE),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="grey",
    )
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.04)
    axes.set_ylabel("reward (share of right letters)")
    _title(axes, f"Reward of each explorer's batches (dots) and their moving mean of {_WINDOW}")
    axes.legend(loc="center right", frameon=False)


def _draw_versions(axes: Axes, story: Story) -> None:
    _steps(axes, story)
    axes.set_ylabel("weight version (training step)")
    _title(axes, "Version that was pushed and that is loaded")
    axes.legend(loc="upper left", frameon=False)


def _draw_zoom(axes: Axes, whole: Axes, story: Story, summary: Summary) -> None:
    """A few versions from the middle, large enough to see who lags behind whom."""
    from matplotlib.ticker import MaxNLocator

    middle = len(story.pushes) // 2
    pushes = story.pushes[max(0, middle - _ZOOM_VERSIONS // 2) :][:_ZOOM_VERSIONS]
    _steps(axes, story, width=1.8, marker="o")
    left, right = pushes[0].visible - story.start, pushes[-1].visible - story.start
    margin = 0.03 * (right - left) or 0.1
    axes.set_xlim(left - margin, right + margin)
    axes.set_ylim(pushes[0].version - 1.6, pushes[-1].version + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    whole.axvspan(left, right, color="grey", alpha=0.25, linewidth=0)
    delays = [e.delay_ms for e in summary.explorers if e.delay_ms is not None]
    lag = f" (push to loaded: median {sum(delays) / len(delays):.0f} ms)" if delays else ""
    _title(axes, f"The grey part: lag{lag}")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left")


def _steps(axes: Axes, story: Story, width: float = 1.3, marker: str = "") -> None:
    style: dict[str, Any] = {
        "where": "post",
        "linewidth": width,
        "marker": marker,
        "markersize": 4,
    }
    pushed = [(push.visible - story.start, push.version) for push in story.pushes]
    axes.step(*zip(*pushed, strict=True), color=_TRAINER, label="trainer", **style)
    for index, name in enumerate(story.explorers):
        loaded = [(pull.ended - story.start, pull.version) for pull in story.pulls[name]]
        if loaded:
            axes.step(*zip(*loaded, strict=True), color=_colour(index), label=name, **style)


def _moving_mean(values: list[float]) -> list[float]:
    half = _WINDOW // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
