"""The picture of a soak: what each replica held over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt

from benchmarks.soak.meter import ROUTER, Sample

_PANELS = {"memory_mb": "memory, MB", "tasks": "asyncio tasks", "sockets": "sockets", "files": "open files"}
_COLOURS = {ROUTER: "Blues", "engine": "Oranges"}
_DARKEST, _LIGHTEST = 0.9, 0.45
_DPI = 110


def draw(samples: Sequence[Sample], kills_s: Sequence[float], warm_up_s: float, path: Path) -> Path:
    """One panel for each thing held, one line for each replica; dashed lines are kills. Returns `path`."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    for (name, title), axes in zip(_PANELS.items(), panels.flat, strict=True):
        series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for sample in samples:
            if name in sample.values:
                series[sample.who].append((sample.at_s / 60, sample.values[name]))
        for role, colours in _COLOURS.items():
            mine = [points for who, points in series.items() if who.startswith(role)]
            for number, points in enumerate(mine):
                shade = _DARKEST - (_DARKEST - _LIGHTEST) * number / max(1, len(mine) - 1)
                label = role if number == 0 else None
                axes.plot(*zip(*points, strict=True), color=plt.get_cmap(colours)(shade), linewidth=1.4, label=label)
        for at_s in kills_s:
            axes.axvline(at_s / 60, color="tab:red", linestyle="--", linewidth=0.8, alpha=0.6)
        axes.axvspan(0, warm_up_s / 60, color="grey", alpha=0.12, linewidth=0)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(loc="lower right", fontsize="small")
    for axes in panels[1]:
        axes.set_xlabel("minutes")
    figure.suptitle("What routers and engines hold; dashed: one was killed; grey: warming up", fontsize="medium")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return path
