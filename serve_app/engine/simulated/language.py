"""Which token comes next: a pure function of all tokens before it, of the seed and of the choice.

The history is a rolling hash, as an autoregressive model's state is a function of its input. So prompt and output ids
replayed as a prompt give the same continuation. The token of rank r has the probability 2^-(r+1), whatever the seed;
greedy decoding takes rank 0. Temperatures above 0 all sample alike; penalties and min_p are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serve_app.core.events import TokenLogprob
from serve_app.core.request import Sampling
from serve_app.engine.simulated.vocabulary import DRAWN, END, FORCED, FRAGMENT_TEXTS, PIECES

_MASK = (1 << 60) - 1
_HISTORY_FACTOR = 0x2545F4914F6CDD1D & _MASK
_GREEDY_FACTOR = 0x9E3779B97F4A7C15 & _MASK
_DRAW_FACTOR = 0x3C79AC492BA7B653
_START = 0x1234567
_STRIDE = 31
_MAX_RANK = 15
_LN2 = math.log(2)
_UNLIKELY = -20.0
_COUNT = len(DRAWN)


def read(ids: Sequence[int], block_tokens: int) -> tuple[int, list[int]]:
    """State after `ids`, and the state after each whole block of them, which identifies that prefix."""
    state = _START
    blocks = []
    for begin in range(0, len(ids), block_tokens):
        part = ids[begin : begin + block_tokens]
        for token in part:
            state = (state * _HISTORY_FACTOR + token + 1) & _MASK
        if len(part) == block_tokens:
            blocks.append(state)
    return state, blocks


def max_rank(sampling: Sampling) -> int:
    """Least likely rank that temperature, top_k and top_p leave to draw."""
    if sampling.temperature == 0:
        return 0
    rank = _MAX_RANK
    if sampling.top_k > 0:
        rank = min(rank, sampling.top_k - 1)
    if sampling.top_p < 1:
        rank = min(rank, max(math.ceil(-math.log2(1 - sampling.top_p)) - 1, 0))
    return rank


class TokenSource:
    """The next-token function of one choice; each `draw` advances it by one token."""

    __slots__ = ("_greedy", "_key", "_last", "_max_rank", "_mean_tokens", "_rank", "_state")

    def __init__(
        self, state: int, last: int, seed: int, choice: int, highest_rank: int, mean_output_tokens: int
    ) -> None:
        self._state = state
        self._last = last
        self._key = (seed * _GREEDY_FACTOR + (seed >> 40) + (choice + 1) * _DRAW_FACTOR) & _MASK
        self._max_rank = highest_rank
        self._mean_tokens = mean_output_tokens
        self._greedy = 0
        self._rank = 0

    def draw(self, may_end: bool) -> int:
        """The next token id; `END` only if `may_end`."""
        state = self._state
        token = FORCED.get(self._last, -1)
        if token >= 0:
            self._rank = -1
        else:
            mixed = (state * _GREEDY_FACTOR & _MASK) ^ (state >> 29)
            self._greedy = greedy = mixed >> 36
            if may_end and (mixed & 0xFFFFFFF) % self._mean_tokens == 0:
                token = END
                self._rank = -1
            else:
                rank = self._max_rank
                if rank:
                    coins = ((state ^ self._key) * _DRAW_FACTOR >> 40) | (1 << rank)
                    rank = (coins & -coins).bit_length() - 1
                self._rank = rank
                token = DRAWN[(greedy + rank * _STRIDE) % _COUNT]
        self._last = token
        self._state = (state * _HISTORY_FACTOR + token + 1) & _MASK
        return token

    def logprob(self, top: int) -> TokenLogprob:
        """Log-probability of the token drawn last, with those of the `top` most likely ones."""
        drawn = _token_text(self._last)
        if self._rank >= 0:
            ranked = ((_ranked_text(self._greedy, rank), -(rank + 1) * _LN2) for rank in range(top))
            return TokenLogprob(drawn, -(self._rank + 1) * _LN2, tuple(ranked))
        certain = [(drawn, 0.0), *((_ranked_text(self._greedy, rank), _UNLIKELY - rank) for rank in range(top))]
        return TokenLogprob(drawn, 0.0, tuple(certain[:top]))


def _ranked_text(greedy: int, rank: int) -> str:
    return _token_text(DRAWN[(greedy + rank * _STRIDE) % _COUNT])


def _token_text(token: int) -> str:
    """As vLLM tells it: a character over several tokens belongs to the last of them."""
    text = FRAGMENT_TEXTS.get(token)
    return PIECES[token].decode() if text is None else text
