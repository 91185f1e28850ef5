from __future__ import annotations

import pickle
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import RouterBusy
from serve_app.ingress.api import build_api
from serve_app.ingress.bytes_under_way import SHORT_BYTES, BytesUnderWay
from serve_app.ingress.grpc.services import build_grpc

LIMIT = 16 * SHORT_BYTES


def test_a_claim_holds_what_it_has_until_the_block_ends() -> None:
    account = BytesUnderWay(LIMIT)
    with account.claim() as claim:
        claim.hold(10)
        claim.hold(30)
        assert account.held_bytes == 30
    assert account.held_bytes == 0


def test_beyond_the_bound_nothing_changes_and_the_request_may_come_again() -> None:
    account = BytesUnderWay(LIMIT)
    with account.claim() as claim, account.claim() as other:
        claim.hold(LIMIT // 2)
        with pytest.raises(RouterBusy) as caught:
            other.hold(LIMIT // 2)
        assert caught.value.retryable
        assert caught.value.retry_after_s > 0
        assert account.held_bytes == LIMIT // 2


def test_long_requests_leave_room_for_short_ones() -> None:
    account = BytesUnderWay(LIMIT)
    with account.claim() as long, account.claim() as longer, account.claim() as short:
        long.hold(LIMIT * 3 // 4)
        with pytest.raises(RouterBusy):
            longer.hold(SHORT_BYTES + 1)
        short.hold(SHORT_BYTES)


def test_what_is_handed_on_outlives_the_block_and_is_given_back_once() -> None:
    account = BytesUnderWay(LIMIT)
    with account.claim() as claim:
        claim.hold(10)
        taken = claim.handed_on()
    assert account.held_bytes == 10
    taken.release()
    taken.release()
    assert account.held_bytes == 0


def test_it_goes_into_replicas_as_one_for_all_protocols() -> None:
    account = BytesUnderWay(5)
    http, grpc = partial(build_api, under_way=account), partial(build_grpc, under_way=account)
    http, grpc = pickle.loads(pickle.dumps((http, grpc)))
    assert http.keywords["under_way"] is grpc.keywords["under_way"]
    assert http.keywords["under_way"].held_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, LIMIT))))
def test_the_account_is_the_sum_of_the_claims_and_never_above_the_bound(steps: list[tuple[int, int]]) -> None:
    account = BytesUnderWay(LIMIT)
    claims = [account.claim() for _ in range(6)]
    held = [0] * 6
    for which, total in steps:
        try:
            claims[which].hold(total)
            held[which] = total
        except RouterBusy:
            assert total > held[which]
        assert account.held_bytes == sum(held) <= LIMIT
    for claim in claims:
        claim.release()
    assert account.held_bytes == 0
