"""Learns how many tokens prompts of some size have: a line per tenant, robust to what other tenants send.

A prompt of `size` bytes has about `fixed + per_byte * size` tokens: a chat template adds the same tokens to each. The
line is fitted by weighted least squares over decayed sums (recursive least squares with a forgetting factor; Haykin,
"Adaptive Filter Theory", chapter 10), with weights of one over the count, since counts vary about as Poisson's do.
Prompts of one size alone say nothing of the slope, so that each fit also has a few weak points of a line known
beforehand: the median line of all tenants, which a minority does not move (Huber, "Robust Statistics", chapter 1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median_low

LEAST_PER_BYTE, MOST_PER_BYTE = 1 / 8, 1.0
"""Tokens per byte: runs of blanks or signs have fewer and would hide others' prompts; no tokenizer has more."""
MOST_FIXED = 2048.0
"""Tokens that a template may add."""

_FORGET = 0.98
_KNOWN_SIZES = (0.0, 400.0, 4000.0)
_FEW_TOKENS = 32.0
"""Counts below are as exact as this one: a template makes them."""
_KNOWN_WEIGHT = 0.1
"""Of each point of the line known beforehand, beside 1 for what was seen."""
_OWN_VOTE_AFTER = 8
"""Prompts after which a tenant has a say in the median."""
_FIRST_VOTES = 2
"""Votes of the first guess: one tenant alone cannot move the median."""
_VOTES_EVERY = 32
"""Prompts between two counts of the votes."""


@dataclass(frozen=True, slots=True)
class Line:
    """`Line(30.0, 0.25).tokens(400)` is 130."""

    fixed: float
    """Tokens of an empty prompt."""
    per_byte: float

    def tokens(self, size: float) -> float:
        """Tokens of a prompt of `size` bytes."""
        return self.fixed + self.per_byte * size


FIRST_GUESS = Line(0.0, 0.25)


class _Sums:
    """What a fit needs of all prompts seen, the newest counting most."""

    __slots__ = ("count", "w", "wx", "wxx", "wxy", "wy")

    def __init__(self) -> None:
        self.count = 0
        self.w = self.wx = self.wy = self.wxx = self.wxy = 0.0

    def add(self, x: float, y: float, scale: float = 1.0) -> None:
        weight = scale / max(_FEW_TOKENS, y)
        self.w += weight
        self.wx += weight * x
        self.wy += weight * y
        self.wxx += weight * x * x
        self.wxy += weight * x * y

    def learn(self, x: float, y: float) -> None:
        self.count += 1
        self.w *= _FORGET
        self.wx *= _FORGET
        self.wy *= _FORGET
        self.wxx *= _FORGET
        self.wxy *= _FORGET
        self.add(x, y)

    def fit(self, known: Line) -> Line:
        """The line nearest to what was seen, and weakly to the `known` one."""
        sums = _Sums()
        sums.w, sums.wx, sums.wy, sums.wxx, sums.wxy = self.w, self.wx, self.wy, self.wxx, self.wxy
        for size in _KNOWN_SIZES:
            sums.add(size, known.tokens(size), _KNOWN_WEIGHT)
        spread = sums.w * sums.wxx - sums.wx * sums.wx
        slope = (sums.w * sums.wxy - sums.wx * sums.wy) / spread  # the known sizes differ: it is never 0
        slope = min(max(slope, LEAST_PER_BYTE), MOST_PER_BYTE)
        fixed = (sums.wy - slope * sums.wx) / sums.w
        return Line(min(max(fixed, 0.0), MOST_FIXED), slope)


class SizeRegression:
    """Lines of one model's tenants. Single-threaded; holds about 200 bytes for each of `max_tenants`.

    However odd one tenant's prompts are, they do not move another's line; those of many tenants move it between
    `LEAST_PER_BYTE` and `MOST_PER_BYTE` at most.
    """

    def __init__(self, max_tenants: int = 256) -> None:
        self._max_tenants = max_tenants
        self._tenants: OrderedDict[str, _Sums] = OrderedDict()
        self._lines: dict[str, Line] = {}
        self._median = FIRST_GUESS
        self._until_votes = _VOTES_EVERY

    def line(self, tenant: str) -> Line:
        """The line for prompts of `tenant`; that of most tenants if this one was not seen lately."""
        return self._lines.get(tenant, self._median)

    def learn(self, tenant: str, size: int, tokens: int) -> None:
        """A prompt of `size` bytes had `tokens` tokens, 1 or more."""
        # What no line could explain is taken for the nearest that one could.
        bounded = min(max(float(tokens), size * LEAST_PER_BYTE), MOST_FIXED + size * MOST_PER_BYTE)
        sums = self._tenants.get(tenant)
        if sums is None:
            sums = self._tenants[tenant] = _Sums()
            if len(self._tenants) > self._max_tenants:
                oldest, _ = self._tenants.popitem(last=False)
                self._lines.pop(oldest, None)
        self._tenants.move_to_end(tenant)
        sums.learn(float(size), bounded)
        self._lines[tenant] = sums.fit(self._median)
        self._until_votes -= 1
        if self._until_votes <= 0:
            self._until_votes = _VOTES_EVERY
            self._median = self._voted()

    def _voted(self) -> Line:
        votes = [self._lines[tenant] for tenant, sums in self._tenants.items() if sums.count >= _OWN_VOTE_AFTER]
        votes += [FIRST_GUESS] * _FIRST_VOTES
        return Line(median_low(line.fixed for line in votes), median_low(line.per_byte for line in votes))
