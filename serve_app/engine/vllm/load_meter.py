"""Reads an engine's load out of vLLM's statistics, whose fields differ between versions."""

from __future__ import annotations

from typing import Any

from serve_app.core.engine_status import EngineLoad


class LoadMeter:
    """Counts sequences that were handed to vLLM, and listens to what its schedulers (one per rank) say of them."""

    def __init__(self) -> None:
        self._sequences = 0
        self._running: dict[int, int] = {}
        self._kv_cache_usage: dict[int, float] = {}
        self._steps = 0
        self._generated_tokens = 0

    def add_sequences(self, count: int) -> None:
        """`count` sequences were handed over, or are done when it is negative."""
        self._sequences += count

    def record(self, rank: int, scheduler_stats: Any, iteration_stats: Any) -> None:
        """Take the statistics of one step; either may be None."""
        if scheduler_stats is not None:
            self._running[rank] = getattr(scheduler_stats, "num_running_reqs", 0)
            self._kv_cache_usage[rank] = getattr(scheduler_stats, "kv_cache_usage", 0.0)
        if iteration_stats is not None:
            self._steps += 1
            self._generated_tokens += getattr(iteration_stats, "num_generation_tokens", 0)

    def load(self) -> EngineLoad:
        """The present load."""
        running = sum(self._running.values())
        return EngineLoad(
            running=running,
            waiting=max(0, self._sequences - running),  # the schedulers have not seen the newest ones yet
            kv_cache_usage=max(self._kv_cache_usage.values(), default=0.0),
            steps=self._steps,
            generated_tokens=self._generated_tokens,
        )
