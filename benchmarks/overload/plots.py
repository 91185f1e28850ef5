"""The plots, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.overload.measure import Measured, percentile
from benchmarks.overload.policies import NO_CONTROL, ORACLE, OURS
from benchmarks.overload.report import Judged

_BIN_S = 5
_OVER_TIME = ("step", "retry_storm", "slow_replica", "bursts")
_COLOURS = {
    NO_CONTROL: "tab:gray",
    "ray_serve_default": "tab:pink",
    "ray_serve_tuned": "tab:orange",
    "fixed_concurrency": "tab:olive",
    "retries": "tab:red",
    "gradient2": "tab:purple",
    ORACLE: "black",
    OURS: "tab:blue",
}
_BOLD = (OURS, ORACLE)
_SIZE = (9.0, 4.5)
_DPI = 110


def draw(judged: Sequence[Judged], folder: Path) -> Iterator[Path]:
    """Draw all plots that the results allow into `folder`; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    yield _save(_summary(judged), folder / "overload-goodput.png")
    for each in judged:
        if each.name in _OVER_TIME:
            yield _save(_over_time(each), folder / f"overload-{each.name.replace('_', '-')}.png")
    yield _save(_first_tokens(judged), folder / "overload-ttft.png")


def _summary(judged: Sequence[Judged]) -> Axes:
    _, axes = plt.subplots(figsize=_SIZE)
    policies = list(judged[0].results.by_policy)
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        ratios = [each.results.goodput_ratio(policy) or 0.0 for each in judged]
        places = [place + number * width for place in range(len(judged))]
        alpha = 1.0 if policy in _BOLD else 0.6
        axes.bar(places, ratios, width, label=policy, color=_COLOURS[policy], alpha=alpha)
    axes.set_xticks(
        [place + 0.4 for place in range(len(judged))], [each.name for each in judged], rotation=20, ha="right"
    )
    axes.set_ylabel("goodput / oracle's")
    axes.set_title("Tokens of requests within their objectives")
    axes.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return axes


def _over_time(judged: Judged) -> Axes:
    _, axes = plt.subplots(figsize=_SIZE)
    for policy, found in judged.results.by_policy.items():
        seconds, rates = _binned(found)
        axes.plot(seconds, rates, label=policy, color=_COLOURS[policy], linewidth=2.2 if policy in _BOLD else 1.0)
    axes.set_xlabel("arrival, s")
    axes.set_ylabel("output tokens/s of fresh requests within objectives")
    axes.set_title(f"{judged.name}: {judged.title}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small", ncols=2)
    return axes


def _binned(found: Measured) -> tuple[list[int], list[float]]:
    bins: dict[int, float] = {}
    for second, (_, good) in found.timeline.items():
        bins[second // _BIN_S * _BIN_S] = bins.get(second // _BIN_S * _BIN_S, 0.0) + good
    seconds = sorted(bins)
    return seconds, [bins[second] / _BIN_S / found.runs for second in seconds]


def _first_tokens(judged: Sequence[Judged]) -> Axes:
    _, axes = plt.subplots(figsize=_SIZE)
    for policy in judged[0].results.by_policy:
        heights = [percentile(each.results.by_policy[policy].ttft_s, 99) for each in judged]
        size = 8 if policy in _BOLD else 5
        axes.plot(range(len(judged)), heights, "o", label=policy, color=_COLOURS[policy], markersize=size)
    axes.set_yscale("log")
    axes.set_xticks(range(len(judged)), [each.name for each in judged], rotation=20, ha="right")
    axes.set_ylabel("p99 time to first token, s")
    axes.set_title("Slowest first tokens of completed requests, by workload")
    axes.legend(fontsize="small", ncols=2)
    return axes


def _save(axes: Axes, path: Path) -> Path:
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return path
