from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.resilience.hedging import HedgingConfig, hedge_window


def test_hedging_is_off_unless_it_is_asked_for() -> None:
    assert not HedgingConfig().enabled


def test_a_hedge_is_sent_while_it_would_typically_still_be_in_time() -> None:
    window = hedge_window(HedgingConfig(lead=1.5), wanted_at=104.0, dispatched_at=100.0, typical_s=0.2)
    assert (window.since, window.until) == pytest.approx((103.7, 103.8))


def test_no_hedge_is_sent_before_the_first_attempt_is_slower_than_most() -> None:
    window = hedge_window(HedgingConfig(lead=2.0), wanted_at=104.0, dispatched_at=103.5, typical_s=0.2)
    assert window.since == pytest.approx(103.7)


def test_where_first_tokens_take_most_of_the_time_there_is_no_hedge() -> None:
    window = hedge_window(HedgingConfig(lead=2.0), wanted_at=103.0, dispatched_at=100.0, typical_s=2.0)
    assert window.until < window.since


def test_a_hedge_is_given_its_typical_time_at_the_least() -> None:
    with pytest.raises(ValidationError):
        HedgingConfig(lead=0.9)
