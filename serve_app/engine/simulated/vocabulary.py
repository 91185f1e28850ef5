"""The simulated model's vocabulary: what each token id stands for, and how text becomes ids.

Ids are, in this order: control tokens without text, all 256 bytes, pairs of letters, words, and the fragments of a few
multi-byte characters. Text is encoded without fragments; the model writes with words and fragments only.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator, Sequence

END = 0
"""Ends an output and every chat message."""
ROLE_TOKENS = {"system": 1, "developer": 1, "user": 2, "assistant": 3, "tool": 4}
"""Opens a chat message of the role."""
_CONTROL_COUNT = 5

_WORDS = (
    " the of and to in is that for it as was with be by on not he his but at are this have from or had an they which"
    " one you were her all she there would their we him been has when who will more no if out so said what up its about"
    " into than them can only other new some could time these two may then do first any my now such like our over man"
    " me even most made after also did many before must through back years where much your way well down should"
    " because each just those people how too little state good very make world still own see men work long get here"
    " between both life being under never day same another know while last might us great old year off come since"
    " against go came right used take three stream token model answer router engine"
)
_MARKS = (".", ",", "!", "?", ";", ":", " café", " naïve", " 서울", " 東京", "\n")
_SPLIT_CHARACTERS = "é한語가🙂🚀"


def _fragments(character: str) -> list[bytes]:
    data = character.encode()
    return [data[:1], data[1:]] if len(data) == 2 else [data[:2], *(data[i : i + 1] for i in range(2, len(data)))]


PIECES: list[bytes] = [b""] * _CONTROL_COUNT + [bytes([value]) for value in range(256)]
"""Bytes of every token id."""
_PAIR_IDS: dict[bytes, int] = {}
for _first in " " + string.ascii_letters:
    for _second in string.ascii_lowercase:
        _PAIR_IDS[(_first + _second).encode()] = len(PIECES)
        PIECES.append((_first + _second).encode())

DRAWN: list[int] = []
"""Ids that the model may draw freely: words, marks, and the first fragment of each split character."""
_WORD_IDS: dict[str, int] = {}
for _word in [*(" " + word for word in _WORDS.split()), *_MARKS]:
    _WORD_IDS[_word] = len(PIECES)
    DRAWN.append(len(PIECES))
    PIECES.append(_word.encode())

FORCED: dict[int, int] = {}
"""The only id that may follow a fragment of a character that is not complete yet."""
OPEN_BYTES: dict[int, bytes] = {}
"""All bytes of the character that a fragment leaves open, up to and including that fragment."""
FRAGMENT_TEXTS: dict[int, str] = {}
"""Text that a fragment completes: the character for its last one, none for the others."""
for _character in _SPLIT_CHARACTERS:
    _parts = _fragments(_character)
    DRAWN.append(len(PIECES))
    for _position, _part in enumerate(_parts):
        FRAGMENT_TEXTS[len(PIECES)] = _character if _position + 1 == len(_parts) else ""
        if _position + 1 < len(_parts):
            FORCED[len(PIECES)] = len(PIECES) + 1
            OPEN_BYTES[len(PIECES)] = b"".join(_parts[: _position + 1])
        PIECES.append(_part)

VOCABULARY_SIZE = len(PIECES)
MAX_PIECE_BYTES = max(map(len, PIECES))


def _whole_text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


TEXTS: list[str | None] = [_whole_text(piece) for piece in PIECES]
"""Text of every token id; None where its bytes are only part of a character."""

_CHUNKS = re.compile(r" ?\w{1,64}| ?[^\w\s]{1,64}|\s")
"""Of bounded length: encoded chunks are remembered."""
_SLICE_TOKENS = 2048


@functools.lru_cache(maxsize=8192)
def _encode_chunk(chunk: str) -> tuple[int, ...]:
    word = _WORD_IDS.get(chunk)
    if word is not None:
        return (word,)
    data = chunk.encode(errors="replace")
    ids = []
    position = 0
    while position < len(data):
        pair = _PAIR_IDS.get(data[position : position + 2])
        ids.append(_CONTROL_COUNT + data[position] if pair is None else pair)
        position += 1 if pair is None else 2
    return tuple(ids)


def encode(text: str) -> list[int]:
    """Token ids of `text`; `decode` gives the text back. Lone surrogates become question marks."""
    return [token for part in encode_in_slices(text) for token in part]


def encode_in_slices(text: str) -> Iterator[list[int]]:
    """The ids of `encode` in lists, each of which takes less than about a millisecond."""
    ids: list[int] = []
    for chunk in _CHUNKS.finditer(text):
        ids.extend(_encode_chunk(chunk.group()))
        if len(ids) >= _SLICE_TOKENS:
            yield ids
            ids = []
    yield ids


def decode(ids: Sequence[int]) -> str:
    """Text of `ids`: control tokens have none, and incomplete characters become U+FFFD."""
    return b"".join(PIECES[token] for token in ids).decode(errors="replace")
