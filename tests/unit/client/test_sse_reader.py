"""Server-sent events out of bytes."""

from __future__ import annotations

import pytest

from serve_app.client.sse_reader import SseComment, SseEvent, SseReader

STREAM = (
    b': queued 3\n\nid: abc.1\ndata: {"a": "\xc3\xa9"}\n\nevent: error\nretry: 1500\ndata: one\ndata:two\n\n'
    b"data: [DONE]\n\n"
)
EVENTS = [
    SseComment("queued 3"),
    SseEvent('{"a": "é"}', id="abc.1"),
    SseEvent("one\ntwo", event="error", retry_ms=1500),
    SseEvent("[DONE]"),
]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_however_the_bytes_are_cut(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    for size in range(1, len(stream) + 1):
        reader = SseReader()
        found = [event for at in range(0, len(stream), size) for event in reader.feed(stream[at : at + size])]
        assert found == EVENTS, size


def test_an_event_that_the_connections_end_cut_off_is_not_told() -> None:
    reader = SseReader()
    assert reader.feed(b"id: a.1\ndata: one\n\nid: a.2\ndata: two\n") == [SseEvent("one", id="a.1")]


def test_an_event_without_data_is_none() -> None:
    assert SseReader().feed(b"id: a.1\n\ndata: x\n\n") == [SseEvent("x")]


def test_unicode_line_separators_are_text() -> None:
    assert SseReader().feed("data: a\u2028b\u0085c\n\n".encode()) == [SseEvent("a\u2028b\u0085c")]


def test_an_event_without_end_is_refused_at_its_bound() -> None:
    reader = SseReader()
    with pytest.raises(ValueError, match="too long"):
        for _ in range(17):
            reader.feed(b"x" * 1024 * 1024)


@pytest.mark.parametrize("frame", [b"data: %b\n\n", b": %b\n"])
def test_many_short_events_are_not_taken_for_a_long_one(frame: bytes) -> None:
    reader = SseReader()
    for _ in range(20):
        assert len(reader.feed(frame % (b"x" * 1024 * 1024))) == 1
