"""A detokenizer whose tokens are bytes, with the interface of vLLM's."""

from __future__ import annotations

import codecs


class ByteDetokenizer:
    """Holds back as many characters as the longest stop string has, less one."""

    def __init__(self, *stops: str) -> None:
        self._stops = stops
        self._hold = max((len(stop) for stop in stops), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._tokens = 0

    def update(self, new_token_ids: list[int], stop_terminated: bool, /) -> str | None:
        self._tokens += len(new_token_ids)
        self._text += self._decoder.decode(bytes(new_token_ids[: len(new_token_ids) - stop_terminated]))
        found = [stop for stop in self._stops if stop in self._text]
        if not found:
            return None
        self._text = self._text[: self._text.index(found[0])]
        return found[0]

    def get_next_output_text(self, finished: bool, delta: bool, /) -> str:
        assert not delta
        return self._text if finished or not self._hold else self._text[: -self._hold]

    def num_output_tokens(self) -> int:
        return self._tokens
