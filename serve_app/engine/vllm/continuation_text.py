"""Text of an output that another replica began: the tokens so far are told again in silence, then it goes on aloud.

Repeating every token from the first one is the only way that is exact: what a token adds to the text depends on bytes
that earlier tokens left open, and on what may have begun a stop string.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from serve_app.core.errors import NotContinuable

PRIME_SLICE_TOKENS = 256
"""Tokens repeated in one go, in about a millisecond, before other streams have their turn."""


class Detokenizer(Protocol):
    """Text and stop strings of one output, whose prompt it knows: vLLM's `IncrementalDetokenizer`."""

    def update(self, new_token_ids: list[int], stop_terminated: bool, /) -> str | None:
        """Take tokens, the last of which gives no text if it ended the output; the stop string that is now complete."""

    def get_next_output_text(self, finished: bool, delta: bool, /) -> str:
        """The text so far, if not `delta`: less what may become a stop string, unless `finished`."""

    def num_output_tokens(self) -> int:
        """Tokens taken, less those behind a stop string."""


class ContinuedText:
    """Hands out the text that the client has not got. Used by one generation."""

    __slots__ = ("_detokenizer", "_told", "stop")

    def __init__(self, detokenizer: Detokenizer) -> None:
        """`detokenizer` knows the prompt and the request's stop strings, and has taken no token yet."""
        self._detokenizer = detokenizer
        self._told = 0
        self.stop: str | None = None
        """The stop string that ended the text, once one has."""

    async def prime(self, token_ids: tuple[int, ...], text_sent: str, ended: bool) -> None:
        """Repeat the output so far; `ended` says that its last token ended it.

        Raises `NotContinuable` when the text comes out otherwise than it was sent.
        """
        for begin in range(0, len(token_ids), PRIME_SLICE_TOKENS):
            if begin:
                await asyncio.sleep(0)
            part = token_ids[begin : begin + PRIME_SLICE_TOKENS]
            self._take(part, ended and begin + len(part) == len(token_ids))
        if not self._detokenizer.get_next_output_text(True, False).startswith(text_sent):
            raise NotContinuable("The text of the tokens so far is another than the one that was sent.")
        self._told = len(text_sent)

    def push(self, token_ids: Iterable[int], ended: bool, finished: bool) -> tuple[int, str]:
        """How many of the new tokens belong to the output, and the text that may be shown now.

        `ended` says that the last token ended the output, `finished` that something did. A stop string that is now
        complete cuts both tokens and text.
        """
        before = self._detokenizer.num_output_tokens()
        self._take(token_ids, ended)
        return self._detokenizer.num_output_tokens() - before, self.rest(finished)

    def rest(self, finished: bool) -> str:
        """What may be shown and has not been; nothing is held back if `finished`."""
        text = self._detokenizer.get_next_output_text(finished or self.stop is not None, False)
        rest = text[self._told :]
        self._told += len(rest)
        return rest

    def _take(self, token_ids: Iterable[int], ended: bool) -> None:
        """One by one, as they came before: several at once are not searched alike by all versions of vLLM."""
        tokens = list(token_ids)
        for position, token in enumerate(tokens, 1):
            if self.stop is not None:
                return
            self.stop = self._detokenizer.update([token], ended and position == len(tokens))
