"""What one streamed answer was, judged after the fact from its recorded bytes.

The load client only stores bytes and their arrival times while the clock runs; everything here happens afterwards.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

_FRAME_END = re.compile(rb"\r?\n\r?\n")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:.*chunked")


class BadStream(Exception):
    """The answer was not the complete, correct stream that was asked for."""


@dataclass(slots=True)
class ReplayRecord:
    """Raw bytes of one HTTP answer, as read; times are `time.perf_counter` seconds."""

    started: float
    reads: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One correct stream."""

    tokens: int
    """Completion tokens, as the server's own `usage` counts them."""
    frames: int
    """Server-sent events that carried text."""
    ttft_s: float
    """From sending the request to the first event with text, in seconds."""
    duration_s: float
    gaps_s: list[float] = field(default_factory=list)
    """Between the arrivals of one event with text and the next."""


def judge(record: ReplayRecord, expected_tokens: int) -> StreamResult:
    """The stream in numbers; raises `BadStream` unless it is complete and has `expected_tokens` tokens."""
    raw = b"".join(record.reads)
    header_end = raw.find(b"\r\n\r\n")
    if header_end < 0:
        raise BadStream("the connection ended before the response headers")
    head = raw[:header_end]
    status = head.split(b"\r\n", 1)[0].decode(errors="replace")
    if " 200 " not in status:
        raise BadStream(f"{status}: {raw[header_end + 4 :][:300].decode(errors='replace')}")
    arrivals = list(accumulate(len(read) for read in record.reads))
    tokens, done = None, False
    text_at: list[float] = []
    for end, event in _events(raw, header_end + 4, _CHUNKED.search(head) is not None):
        if event == b"[DONE]":
            done = True
            continue
        body = _json(event)
        if "error" in body:
            raise BadStream(f"error in the stream: {event[:300].decode(errors='replace')}")
        if usage := body.get("usage"):
            tokens = usage["completion_tokens"]
        if any(choice["delta"].get("content") for choice in body.get("choices", ())):
            text_at.append(record.times[bisect_left(arrivals, end)])
    if not done:
        raise BadStream("the stream ended without [DONE]")
    if tokens != expected_tokens:
        raise BadStream(f"{tokens} tokens received, {expected_tokens} expected")
    if not text_at:
        raise BadStream("no event carried text")
    gaps_s = [after - before for before, after in pairwise(text_at)]
    return StreamResult(tokens, len(text_at), text_at[0] - record.started, record.times[-1] - record.started, gaps_s)


def _json(event: bytes) -> dict[str, Any]:
    try:
        body = json.loads(event)
    except ValueError as error:
        raise BadStream(f"an event is no JSON: {event[:200]!r}") from error
    if not isinstance(body, dict):
        raise BadStream(f"an event is no JSON object: {event[:200]!r}")
    return body


def _events(raw: bytes, start: int, chunked: bool) -> Iterator[tuple[int, bytes]]:
    """Data of each server-sent event, with the position in `raw` of the last byte that completed it, plus one."""
    if chunked:
        payload, ends, raw_ends = _unchunk(raw, start)
    else:
        payload, ends, raw_ends = raw[start:], [len(raw) - start], [len(raw)]
    position = 0
    for match in _FRAME_END.finditer(payload):
        frame = payload[position : match.start()]
        position = match.end()
        chunk = bisect_left(ends, position)
        data = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
        if data:
            yield raw_ends[chunk] - (ends[chunk] - position), b"\n".join(data)


def _unchunk(raw: bytes, start: int) -> tuple[bytes, list[int], list[int]]:
    """Payload of a chunked body; end of each chunk within the payload, and within `raw`."""
    parts: list[bytes] = []
    ends: list[int] = []
    raw_ends: list[int] = []
    length = 0
    while True:
        line_end = raw.find(b"\r\n", start)
        if line_end < 0:
            raise BadStream("the connection ended within the stream")
        size = int(raw[start:line_end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts), ends, raw_ends
        begin = line_end + 2
        if begin + size + 2 > len(raw):
            raise BadStream("the connection ended within the stream")
        parts.append(raw[begin : begin + size])
        length += size
        ends.append(length)
        raw_ends.append(begin + size)
        start = begin + size + 2
