"""How long a first token will take at a replica, from the prompt tokens that it has to compute before it."""

from __future__ import annotations

import math

_STANDARD_ERRORS = 2.0
"""By so many is a slope taken to be smaller than it seems."""


class FirstTokenModel:
    """Weighted least squares of TTFT on prompt tokens: `ttft ≈ fixed + tokens × seconds_per_token`. Pure.

    The tokens are those of the prompt and of all prompts that were sent to the replica before it and have no first
    token yet: prefill is done in order, so they are what it waits for (as in the prefill queue of DistServe, Zhong et
    al., OSDI 2024). An engine whose first token does not depend on them, as a remote API's, gets a slope of zero.
    Old observations fade by `decay` with each new one (recursive least squares with a forgetting factor, Haykin,
    "Adaptive Filter Theory").
    """

    def __init__(self, decay: float = 0.99, min_samples: int = 20) -> None:
        """With the defaults the last hundred first tokens count, and nothing is told before twenty."""
        self._decay = decay
        self._min_samples = min_samples
        self._seen = 0
        self._weight = self._x = self._y = self._xx = self._xy = self._yy = 0.0
        self._slope = self._fixed = self._sure_slope = 0.0

    def learn(self, tokens: int, ttft_s: float) -> None:
        """A first token came `ttft_s` seconds after dispatch, with `tokens` prompt tokens to compute until then."""
        keep = self._decay
        x = float(tokens)
        self._seen += 1
        self._weight = self._weight * keep + 1.0
        self._x = self._x * keep + x
        self._y = self._y * keep + ttft_s
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * ttft_s
        self._yy = self._yy * keep + ttft_s * ttft_s
        self._fit()

    @property
    def seconds_per_token(self) -> float:
        """Seconds by which each prompt token before it delays a first token, at the least; 0 while that may be chance.

        Work is held back on its account, so two standard errors are taken off: calls that take long at random, whatever
        waits before them, show a slope that is none.
        """
        return self._sure_slope if self._seen >= self._min_samples else 0.0

    def expected_s(self, tokens: int) -> float:
        """Expected TTFT in seconds with `tokens` prompt tokens to compute; 0 while too little was seen."""
        if self._seen < self._min_samples:
            return 0.0
        return max(0.0, self._fixed + self._slope * tokens)

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        var_x = self._xx / self._weight - mean_x * mean_x
        if var_x <= 1e-9 * (1.0 + mean_x * mean_x):
            self._slope, self._sure_slope, self._fixed = 0.0, 0.0, mean_y
            return
        cov = self._xy / self._weight - mean_x * mean_y
        slope = cov / var_x
        unexplained = max(0.0, self._yy / self._weight - mean_y * mean_y - slope * cov)
        self._slope = max(0.0, slope)
        self._sure_slope = max(0.0, slope - _STANDARD_ERRORS * math.sqrt(unexplained / (var_x * self._weight)))
        self._fixed = mean_y - self._slope * mean_x
