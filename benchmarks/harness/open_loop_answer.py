"""What became of one request of the open loop, judged after the fact from the recorded bytes."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from benchmarks.harness.stream_record import BadStream, ReplayRecord, judge

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"(?im)^content-length:\s*(\d+)")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_TEXT = re.compile(rb'"content":\s*"[^"]')
_BUSY = (429, 503)
"""Statuses by which a server says that it has no room: it refused."""


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    """Completely."""
    REFUSED = "refused"
    """At once or later, before any token, with 429 or 503."""
    FAILED = "failed"
    """Anything else: an answer cut short, an error, the client's timeout."""


@dataclass(slots=True)
class Exchange:
    """One request and the bytes that came back; moments are `time.perf_counter` seconds."""

    arrival_s: float
    """From the begin of the run."""
    record: ReplayRecord
    """It `started` at the arrival, also if the client sent it a little later."""
    sent: float
    ended: float = 0.0
    why: str = ""
    """What ended it, other than the server."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request in numbers; seconds count from its arrival."""

    arrival_s: float
    end: End
    status: int
    """HTTP status; 0 if none came."""
    duration_s: float
    """Until the last byte, or until the client hung up."""
    sent_late_s: float
    """Between arrival and sending: the client's own delay."""
    ttft_s: float | None = None
    """Until the first text; None if none came."""
    tokens: int = 0
    """Of a complete answer, as the server counts them."""
    why: str = ""
    """Why it failed or was refused."""


def is_complete(reads: Sequence[bytes]) -> bool:
    """Whether these reads hold a whole HTTP answer. Cheap for streams, where it is asked for every read."""
    tail = reads[-1]
    if len(tail) < len(_LAST_CHUNK):
        tail = b"".join(reads[-len(_LAST_CHUNK) :])
    if tail.endswith(_LAST_CHUNK):
        return True
    if reads[0].startswith(b"HTTP/1.1 200"):
        return False
    raw = b"".join(reads)
    head, separator, body = raw.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(separator) and length is not None and len(body) >= int(length[1])


def judge_exchange(exchange: Exchange, tokens: int) -> Answer:
    """The exchange in numbers; a complete answer has exactly `tokens` tokens."""
    record = exchange.record
    raw = b"".join(record.reads)
    found = _STATUS.match(raw)
    status = int(found[1]) if found else 0
    late_s, duration_s = exchange.sent - record.started, exchange.ended - record.started

    def ended(end: End, why: str, ttft_s: float | None = None) -> Answer:
        return Answer(exchange.arrival_s, end, status, duration_s, late_s, ttft_s, why=why)

    if status in _BUSY:
        return ended(End.REFUSED, raw.partition(b"\r\n\r\n")[2][:300].decode(errors="replace"))
    if exchange.why:
        return ended(End.FAILED, exchange.why, _first_text_s(raw, record))
    try:
        result = judge(record, tokens)
    except BadStream as error:
        return ended(End.FAILED, str(error), _first_text_s(raw, record))
    return Answer(exchange.arrival_s, End.ANSWERED, status, duration_s, late_s, result.ttft_s, result.tokens)


def _first_text_s(raw: bytes, record: ReplayRecord) -> float | None:
    """Seconds to the first text of an answer that is not complete."""
    text = _TEXT.search(raw)
    if text is None:
        return None
    arrivals = list(accumulate(len(read) for read in record.reads))
    return record.times[bisect_right(arrivals, text.end() - 1)] - record.started
