"""Prompts wait in the router, not in an engine that has enough of them."""

from __future__ import annotations

from dataclasses import replace

from serve_app.router.decisions.messages import Dispatch, RoomMade
from tests.unit.router.decisions.driven_core import DrivenCore

SECONDS_PER_TOKEN = 0.001


def busy_engine() -> DrivenCore:
    """A replica with room for 100 streams, of which is known that a prompt token takes a millisecond."""
    core = DrivenCore("a", capacity=100, max_prefill_backlog_s=0.25)
    for tokens in range(50, 2050, 20):
        core.model.attempts.first_token_model.learn(tokens, tokens * SECONDS_PER_TOKEN)
    return core


def test_engine_with_a_long_queue_of_prompts_is_sent_no_more():
    core = busy_engine()
    for stream_id in (1, 2, 3, 4):
        core.offer(stream_id, tokens=100)

    assert core.running.keys() == {1, 2, 3}  # 200 ms of prompts are few enough to add one, 300 ms are not
    assert len(core.model.queue) == 1


def test_prompt_of_any_length_goes_to_an_engine_without_prompts():
    core = busy_engine()
    core.offer(1, tokens=100_000)

    assert core.running.keys() == {1}


def test_first_token_makes_room_for_the_next_prompt_at_once():
    core = busy_engine()
    for stream_id in (1, 2, 3, 4):
        core.offer(stream_id, tokens=100)
        if stream_id < 4:
            core.accept(stream_id, prompt_tokens=100)

    assert core.core.tokens_received(1, 1, core.now)
    sent = core.tell(RoomMade())

    assert [c.stream_id for c in sent if isinstance(c, Dispatch)] == [4]
    assert not core.core.tokens_received(1, 1, core.now), "a later token makes no room for prompts"
    assert not core.core.tokens_received(2, 1, core.now), "nobody waits any more"


def test_backlog_is_given_back_when_its_stream_ends_without_a_token():
    core = busy_engine()
    for stream_id in (1, 2, 3, 4):
        core.offer(stream_id, tokens=100)
    core.end(1, completed=False)

    assert core.running.keys() == {2, 3, 4}
    for stream_id in (2, 3, 4):
        core.end(stream_id, completed=False)
    assert core.view("a").awaiting_tokens == 0


def test_engine_shared_by_two_routers_is_sent_half_as_much_by_each():
    core = busy_engine()
    core.view("a").status = replace(core.view("a").status, routers=2)
    for stream_id in (1, 2, 3):
        core.offer(stream_id, tokens=100)

    assert core.running.keys() == {1, 2}
