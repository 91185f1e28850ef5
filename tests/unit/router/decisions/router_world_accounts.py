"""What a router core counts, held against what the router world saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_app.core.request import Priority
from serve_app.router.decisions.model_core import ModelCore
from serve_app.router.decisions.stream_ledger import StreamLedger
from tests.unit.router.decisions.router_world_bounds import BAND_REQUESTS, BAND_TOKENS, CAPACITY, IN_LINE

if TYPE_CHECKING:
    from tests.unit.router.decisions.router_world import World


def second_attempts(core: ModelCore) -> dict[int, StreamLedger]:
    """The second attempts as the core keeps them, by stream."""
    return {stream_id: stream.hedge for stream_id, stream in core.streams.items() if stream.hedge is not None}


def check_places(world: World, core: ModelCore) -> None:
    """Each stream is in one place, and the queue within its bounds."""
    queued, parked = list(core.queue), core.waiting.parked
    assert second_attempts(core).keys() == world.seconds.keys() <= world.running.keys()
    assert {*queued, *parked, *world.running} == world.clients.keys() == core.streams.keys()
    assert len(queued) + len(parked) + len(world.running) == len(world.clients), "in two places at once"
    new = [s for s in map(core.streams.__getitem__, queued) if not s.attempt]
    in_line = [s for s in new if core.queue.waits_in_line(s.stream_id)]
    assert len(in_line) == core.queue.in_line <= (3 * IN_LINE if world.when_full == "wait" else 0)
    bands: dict[Priority, list[int]] = {}
    for stream in new:
        if stream not in in_line:
            bands.setdefault(stream.offer.priority, []).append(stream.prompt_tokens)
    assert all(len(tokens) <= BAND_REQUESTS and sum(tokens) <= BAND_TOKENS for tokens in bands.values())


def check_leases(world: World, core: ModelCore) -> None:
    """What streams hold adds up to what is counted for the budget and at the replicas."""
    mine, awaited = dict.fromkeys(world.engines, 0), dict.fromkeys(world.engines, 0)
    in_flight = repeated = repeats = 0
    for stream_id, attempt in world.running.items():
        mine[attempt.engine] += 1
        in_flight += core.streams[stream_id].leased_tokens
        awaited[attempt.engine] += core.streams[stream_id].awaited_tokens
        assert (attempt.token_at is None) == (core.streams[stream_id].awaited_tokens > 0)
    seconds = second_attempts(core)
    for stream_id, attempt in world.seconds.items():
        mine[attempt.engine] += 1
        in_flight += seconds[stream_id].leased_tokens
        awaited[attempt.engine] += seconds[stream_id].awaited_tokens
    for stream in (*core.streams.values(), *seconds.values()):
        if stream.budget_tokens is not None:
            repeats += 1
            repeated += stream.budget_tokens
    assert core.budget._in_flight == in_flight
    assert (core.budget._repeats, core.budget.repeated) == (repeats, repeated)
    views = core.pool.views()
    assert {view.engine_id for view in views} == mine.keys()
    for view in views:
        count = mine[view.engine_id]
        assert view.in_flight == count <= CAPACITY
        assert view.outstanding_tokens >= count, "a replica looks emptier than it is"
        assert view.awaiting_tokens == awaited[view.engine_id], "prompts are not counted once"
        assert count or view.outstanding_tokens == 0
    for snapshot in core.policies.snapshot(world.now):
        assert snapshot.in_flight == mine[snapshot.engine_id], "a permit was not settled"
