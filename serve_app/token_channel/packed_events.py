"""A part of a stream's events as bytes: a tenth of their memory, and text, tokens and positions are read without them.

Plain token deltas, which are nearly all, lie in columns: counts, token ids, lengths, log-probabilities, and one text.
Everything else lies beside them in the channel's own encoding, with its place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import msgspec

from serve_app.core.events import Accepted, StreamEvent, TokenDelta, TokenLogprob
from serve_app.token_channel.brief_answer import REASONING, UNTYPED, kind_of, parts_of, texts_in
from serve_app.token_channel.codec import (
    PROTOCOL_VERSION,
    MalformedMessage,
    WireEvent,
    check_version,
    decode_events,
    encode_events,
)

_HEADER = b"TC" + bytes([PROTOCOL_VERSION]) + b"P"
_ID = "i"
"""Four bytes a token id, where a list of integers takes up to 36."""
_LARGEST_COUNT = 255
_WireLogprob = tuple[str, float, tuple[tuple[str, float], ...]]


class _Columns(msgspec.Struct, array_like=True, frozen=True):
    events: int
    index: int
    """`TokenDelta.index` of the first delta in the columns."""
    counts: bytes
    lengths: list[int]
    """Characters of each delta's text."""
    kinds: bytes
    """What each text is, see `brief_answer.kind_of`; empty where all are untyped."""
    text: bytes
    token_ids: bytes | None
    others: bytes
    """The events that are not in the columns, `seq` being their place; empty when there are none."""
    logprobs: msgspec.Raw
    """Null where there are none. Read only when events are wanted."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Columns)
_shown_decoder = msgspec.msgpack.Decoder(list[list[tuple[str, msgspec.Raw, msgspec.Raw]]] | None)
_logprobs_decoder = msgspec.msgpack.Decoder(list[list[_WireLogprob]] | None)


def pack(events: Sequence[StreamEvent]) -> bytes:
    """Encode a part of one stream's events, which are in order. Of an event that has no encoding see `encode_batch`."""
    try:
        return _packed(events, *_in_columns(events))
    except (TypeError, ValueError, OverflowError):
        return _packed(events, [], list(enumerate(events)))


@dataclass(frozen=True, slots=True)
class PackedEvents:
    """One part, open to be read: `PackedEvents.of(pack(events)).text == "".join(delta.text for delta in events)`."""

    _columns: _Columns
    _others: Sequence[WireEvent]

    @classmethod
    def of(cls, part: bytes) -> PackedEvents:
        """Read what `pack` wrote. Raises `UnsupportedVersion` or `MalformedMessage`."""
        header = part[: len(_HEADER)]
        if header != _HEADER:
            if header[:2] == _HEADER[:2] and len(header) == len(_HEADER):
                check_version(header[2])
            raise MalformedMessage(f"unexpected header {header!r}")
        try:
            columns = _decoder.decode(memoryview(part)[len(_HEADER) :])
        except msgspec.MsgspecError as error:
            raise MalformedMessage(f"no events: {error}") from error
        return cls(columns, decode_events(columns.others) if columns.others else ())

    def __len__(self) -> int:
        return self._columns.events

    @property
    def text(self) -> str:
        """The text of all deltas."""
        if self._odd_deltas:
            return "".join(event.text for event in self.events() if isinstance(event, TokenDelta))
        return _text(self._columns.text)

    @property
    def texts(self) -> int:
        """How many pieces of content the deltas bring."""
        lengths = self._columns.lengths
        kinds = self._columns.kinds or bytes(len(lengths))
        plain = sum(length > 0 and kind != REASONING for length, kind in zip(lengths, kinds, strict=True))
        return plain + sum(map(texts_in, self.others))

    @property
    def others(self) -> list[StreamEvent]:
        """The events that are not plain deltas, in order."""
        return [event for *_, event in self._others]

    @property
    def tokens(self) -> int:
        """Output tokens by the end of the last delta; 0 when there is none."""
        return max(self._plain_end, *(delta.end for delta in self._odd_deltas), 0)

    @property
    def position(self) -> int:
        """Where a reader stands who has the last delta, see `TokenDelta.position`; 0 when there is none."""
        return max(self._plain_end, *(delta.position for delta in self._odd_deltas), 0)

    @property
    def ends_with_delta(self) -> bool:
        """Whether the last event brings tokens or text."""
        if self._others and self._others[-1][2] == len(self) - 1:
            return isinstance(self._others[-1][3], TokenDelta)
        return len(self) > 0

    def token_ids(self, index: int) -> array[int] | None:
        """The ids of all tokens, which begin at `index`; None when some are not known or missing."""
        columns = self._columns
        if self._odd_deltas:
            ids: array[int] = array(_ID)
            for event in self.events():
                if isinstance(event, TokenDelta):
                    if (
                        event.token_ids is None
                        or event.index != index + len(ids)
                        or event.count != len(event.token_ids)
                    ):
                        return None
                    ids.extend(event.token_ids)
            return ids
        if columns.counts and (columns.token_ids is None or columns.index != index):
            return None
        return array(_ID, columns.token_ids or b"")

    def brief(self) -> Iterator[StreamEvent]:
        """The events for `brief_answer.joined`, in few pieces."""
        columns = self._columns
        if self._odd_deltas:
            yield from self.events()
            return
        yield from (event for event in self.others if isinstance(event, Accepted))
        text, index, start = _text(columns.text), columns.index, 0
        for kind, count, length in self._runs():
            piece = text[start : start + length]
            yield TokenDelta(0, index, count, piece, parts=parts_of(kind, piece))
            index, start = index + count, start + length
        yield from (event for event in self.others if not isinstance(event, Accepted))

    def events(self) -> list[StreamEvent]:
        """The events as they were."""
        columns = self._columns
        text, index, start, first_id = _text(columns.text), columns.index, 0, 0
        ids = None if columns.token_ids is None else array(_ID, columns.token_ids).tolist()
        kinds = columns.kinds or bytes(len(columns.counts))
        scored = _logprobs_decoder.decode(columns.logprobs)
        events: list[StreamEvent] = []
        for number, (count, length) in enumerate(zip(columns.counts, columns.lengths, strict=True)):
            token_ids = None if ids is None else ids[first_id : first_id + count]
            logprobs = None if scored is None else [TokenLogprob(*logprob) for logprob in scored[number]]
            piece = text[start : start + length]
            events.append(TokenDelta(0, index, count, piece, token_ids, logprobs, parts_of(kinds[number], piece)))
            index, start, first_id = index + count, start + length, first_id + count
        for _, _, place, event in self._others:
            events.insert(place, event)
        return events

    def shown_lengths(self) -> list[int]:
        """Characters of each token, as its log-probabilities show it."""
        if self._odd_deltas:
            deltas = (event for event in self.events() if isinstance(event, TokenDelta))
            return [len(shown.token) for delta in deltas for shown in delta.logprobs or ()]
        return [len(token) for shown in _shown_decoder.decode(self._columns.logprobs) or () for token, *_ in shown]

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """Kind, tokens and characters of what lies in the columns, together as long as the kind is the same."""
        columns = self._columns
        if not columns.kinds:
            if columns.counts:
                yield UNTYPED, sum(columns.counts), sum(columns.lengths)
            return
        plain = zip(columns.kinds, columns.counts, columns.lengths, strict=True)
        for kind, run in groupby(plain, key=itemgetter(0)):
            _, counts, lengths = zip(*run, strict=True)
            yield kind, sum(counts), sum(lengths)

    @property
    def _odd_deltas(self) -> list[TokenDelta]:
        return [event for *_, event in self._others if isinstance(event, TokenDelta)]

    @property
    def _plain_end(self) -> int:
        return self._columns.index + sum(self._columns.counts)


def unpack(parts: Iterable[bytes]) -> list[StreamEvent]:
    """The events of several parts."""
    return [event for part in parts for event in PackedEvents.of(part).events()]


_Placed = tuple[int, StreamEvent]


def _in_columns(events: Sequence[StreamEvent]) -> tuple[list[TokenDelta], list[_Placed]]:
    """Part what fits into the columns from what does not: they hold one choice's tokens without a gap."""
    columns: list[TokenDelta] = []
    others: list[_Placed] = []
    end = -1
    for place, event in enumerate(events):
        if isinstance(event, TokenDelta) and event.choice == 0 and 0 < event.count <= _LARGEST_COUNT:
            first = columns[0] if columns else event
            whole = event.token_ids is None or len(event.token_ids) == event.count
            alike = whole and kind_of(event) is not None and _columns_of(event) == _columns_of(first)
            if alike and (event is first or event.index == end):
                columns.append(event)
                end = event.end
                continue
        others.append((place, event))
    return columns, others


def _columns_of(delta: TokenDelta) -> tuple[bool, bool]:
    return delta.token_ids is None, delta.logprobs is None


def _packed(events: Sequence[StreamEvent], deltas: Sequence[TokenDelta], others: Sequence[_Placed]) -> bytes:
    first = deltas[0] if deltas else None
    token_ids = scored = None
    if first is not None and first.token_ids is not None:
        token_ids = array(_ID, [token for delta in deltas for token in delta.token_ids or ()]).tobytes()
    if first is not None and first.logprobs is not None:
        scored = [[(each.token, each.logprob, each.top) for each in delta.logprobs or ()] for delta in deltas]
    kinds = bytes(kind_of(delta) or UNTYPED for delta in deltas)
    columns = _Columns(
        len(events),
        0 if first is None else first.index,
        bytes(delta.count for delta in deltas),
        [len(delta.text) for delta in deltas],
        kinds if any(kinds) else b"",
        "".join(delta.text for delta in deltas).encode("utf-8", "surrogatepass"),
        token_ids,
        encode_events([(0, 0, place, event) for place, event in others]) if others else b"",
        msgspec.Raw(_encoder.encode(scored)),
    )
    return _HEADER + _encoder.encode(columns)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
