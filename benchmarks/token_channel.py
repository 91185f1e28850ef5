"""CPU time per token of the token channel: its codec alone, and both sides over loopback.

    python -m benchmarks.token_channel [--batch 64] [--seconds 2]

Prints a table, then one JSON object. Times are CPU times of this process, ZeroMQ's I/O threads (encryption, TCP)
included in the rows that say so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.events import TokenDelta, TokenLogprob
from serve_app.token_channel.codec import Batch, WireEvent, decode_batch, encode_batch
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.receiver import ChannelReceiver
from serve_app.token_channel.sender import ChannelSender

_IN_FLIGHT_MESSAGES = 8


def step(size: int, index: int, scored: bool = False) -> list[WireEvent]:
    """The events of one engine step: one token for each of `size` streams."""
    logprobs = [TokenLogprob(" word", -0.25, ((" word", -0.25), (" other", -1.75)))] if scored else None
    return [
        (10**9 + stream, 1, index + 1, TokenDelta(0, index, 1, " word", [20_000 + stream], logprobs))
        for stream in range(size)
    ]


def cpu_us_per_token(work: Callable[[], object], tokens: int, seconds: float) -> float:
    """CPU µs per token of `work`, which handles `tokens`: the best of several runs, as others disturb each."""
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.thread_time()
        for _ in range(50):
            work()
        best = min(best, (time.thread_time() - started) / 50)
    return best / tokens * 1e6


def codec_rows(size: int, seconds: float) -> dict[str, float]:
    """Cost of encoding a batch, and of decoding it into events."""
    rows = {}
    for name, scored in (("", False), (" with logprobs", True)):
        batch = Batch(1, step(size, 50, scored))
        data = encode_batch(batch)
        rows[f"encode{name}"] = cpu_us_per_token(lambda batch=batch: encode_batch(batch), size, seconds / 4)  # type: ignore[misc]  # mypy: bound defaults
        rows[f"decode{name}"] = cpu_us_per_token(lambda data=data: decode_batch(data), size, seconds / 4)  # type: ignore[misc]
        rows[f"bytes{name}"] = len(data) / size
    return rows


class Counter:
    """A listener that only counts, and wakes who waits for a count."""

    def __init__(self) -> None:
        self.batches = 0
        self._arrived = asyncio.Event()

    async def until(self, batches: int) -> None:
        """Wait until as many batches have arrived."""
        while self.batches < batches:
            self._arrived.clear()
            await self._arrived.wait()

    def on_events(self, engine_id: str, events: Sequence[WireEvent]) -> None:
        self.batches += 1
        self._arrived.set()

    def on_status(self, status: EngineStatus) -> None: ...

    def on_silent(self, engine_id: str) -> None: ...


async def loopback_rows(size: int, seconds: float) -> dict[str, float]:
    """Cost of both sides over loopback, and tokens per second of one core at most."""
    config, counter = ChannelConfig(), Counter()
    receiver = ChannelReceiver("router", counter, config, "127.0.0.1")
    report = EngineStatus("engine", "model", EngineLoad(size, 0, 0.5, 1, 1), 256, size, 1, True, 8192)
    sender = ChannelSender("engine", lambda: report, lambda router_id: None, config)
    try:
        sender.attach(await receiver.start())
        events = step(size, 50)
        sent = 0
        started, cpu_started, loop_started = time.perf_counter(), time.process_time(), time.thread_time()
        while time.perf_counter() - started < seconds:
            for stream_id, attempt, seq, event in events:
                sender.send("router", stream_id, attempt, seq, event)
            sent += 1
            await asyncio.sleep(0)
            await counter.until(sent - _IN_FLIGHT_MESSAGES)
        await counter.until(sent)
        tokens = sent * size
        return {
            "both sides, event loop": (time.thread_time() - loop_started) / tokens * 1e6,
            "both sides, all threads": (time.process_time() - cpu_started) / tokens * 1e6,
            "tokens/s": tokens / (time.perf_counter() - started),
        }
    finally:
        await sender.close()
        await receiver.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=64, help="events per message")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each part")
    arguments = parser.parse_args()
    rows = codec_rows(arguments.batch, arguments.seconds)
    rows |= asyncio.run(loopback_rows(arguments.batch, arguments.seconds))
    print(f"{arguments.batch} tokens a message; µs of CPU per token unless named otherwise")
    for name, value in rows.items():
        print(f"  {name:<28}{value:>10.2f}")
    result = {
        "bench": "token-channel",
        "batch": arguments.batch,
        "codec_us_per_token": round(rows["encode"] + rows["decode"], 3),
        "us_per_token": round(rows["both sides, all threads"], 3),
        "bytes_per_token": round(rows["bytes"], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
