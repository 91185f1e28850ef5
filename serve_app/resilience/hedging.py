"""When a second attempt of a request is worth its price: at the last moment at which it would still be in time."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class HedgingConfig(BaseModel):
    """`args.router.hedging`: second, concurrent attempts of requests without a first token. The first token wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    """Off by default: a prompt is computed twice, and GPU time is dear. Worth it where first tokens are late at random,
    as from an API outside."""
    target_s: float | None = Field(default=None, gt=0)
    """Seconds from arrival within which a first token is wanted, of every band. None: the band's objective
    (`first_token_objectives_s`). Give it where late answers are unwelcome but better than none: what cannot meet an
    objective is refused, what cannot meet this is not."""
    lead: float = Field(default=1.5, ge=1)
    """Typical times to the first token that a second attempt is given: with more of it more are in time, and more are
    sent."""
    min_samples: int = Field(default=8, ge=1)
    """First tokens seen in the last minutes below which none is sent: the typical time is their median."""
    same_replica: bool = False
    """True lets a second attempt go to the replica that runs the first one, where there is none other with room: for
    replicas that stand for an API outside, of which each call has a time of its own."""


@dataclass(frozen=True, slots=True)
class HedgeWindow:
    """Clock readings (seconds) between which a second attempt may be sent; empty when `until` is before `since`."""

    since: float
    until: float


def hedge_window(config: HedgingConfig, wanted_at: float, dispatched_at: float, typical_s: float) -> HedgeWindow:
    """When to send a second attempt of a request without a first token. Pure.

    `wanted_at` is the clock reading before which the first token is wanted, `dispatched_at` that of the first attempt,
    `typical_s` the median time to the first token of a dispatch. Not before the first attempt is slower than most, and
    not after a second one would most likely be late.

    Source: the hedged requests of J. Dean & L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013. They send the second
    request once the first is slower than the 95th percentile, so that 5 % are sent twice. Where one call in five is
    slow that percentile is the slow call's time, and a hedge comes too late; but only the few that are about to miss
    what was promised need one. So what was promised sets the time here, and the retry budget bounds the price.
    """
    return HedgeWindow(max(wanted_at - config.lead * typical_s, dispatched_at + typical_s), wanted_at - typical_s)
