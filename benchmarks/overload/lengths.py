"""Recorded prompt and output lengths, as quantile tables that are sampled by linear interpolation.

Source: "Azure LLM inference trace 2023", conversation service (AzureLLMInferenceTrace_conv.csv, CC-BY), published with
P. Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024: median prompt 1,020
tokens, median output 129. These are quantile tables, not the trace: a dozen points read off some 500 consecutive
requests of it and adjusted to the published medians, so that the shape stays (a cluster of prompts at 370 to 440
tokens, one at 4,096, two humps of outputs); prompt and output are drawn independently.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Quantiles:
    """A distribution of token counts, given by values at increasing fractions from 0 to 1."""

    fractions: tuple[float, ...]
    tokens: tuple[int, ...]

    def sample(self, rng: random.Random) -> int:
        """One draw."""
        return self.at(rng.random())

    def at(self, fraction: float) -> int:
        """The quantile of `fraction` in 0..1."""
        right = min(max(bisect_right(self.fractions, fraction), 1), len(self.fractions) - 1)
        x0, x1 = self.fractions[right - 1], self.fractions[right]
        y0, y1 = self.tokens[right - 1], self.tokens[right]
        return round(y0 + (y1 - y0) * (fraction - x0) / (x1 - x0))

    @property
    def mean(self) -> float:
        """Mean number of tokens."""
        points = list(zip(self.fractions, self.tokens, strict=True))
        return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


PROMPT_TOKENS = Quantiles(
    (0.0, 0.05, 0.10, 0.25, 0.42, 0.50, 0.60, 0.70, 0.80, 0.87, 0.90, 0.98, 1.0),
    (20, 181, 371, 388, 440, 1020, 1110, 1210, 1500, 2400, 4070, 4096, 6000),
)
OUTPUT_TOKENS = Quantiles(
    (0.0, 0.05, 0.10, 0.25, 0.40, 0.50, 0.60, 0.68, 0.75, 0.90, 0.97, 1.0),
    (12, 35, 45, 72, 98, 129, 190, 385, 402, 440, 600, 1000),
)
