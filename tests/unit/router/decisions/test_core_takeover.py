"""What another router had admitted goes on ahead of new work, within the retry budget, and is charged once."""

from __future__ import annotations

from serve_app.router.decisions.messages import Offer
from tests.unit.router.decisions.driven_core import MODEL, DrivenCore


def taken_over(stream_id: int, tokens: int) -> Offer:
    return Offer(stream_id, MODEL, 100, 50, None, taken_over=tokens)


def test_it_is_continued_at_once_where_there_is_room():
    core = DrivenCore("a")
    core.tell(taken_over(1, 10))

    assert core.running[1].replay
    assert core.model.budget.repeated == 110


def test_without_output_it_starts_as_a_new_one():
    core = DrivenCore("a")
    core.tell(taken_over(1, 0))

    assert not core.running[1].replay
    assert core.model.budget.repeated == 0


def test_it_is_never_refused_and_comes_before_new_work():
    bands = {"default": {"requests": 1}}
    core = DrivenCore("a", capacity=1, admission={"bands": bands, "when_full": "refuse"})
    core.begin(1)
    core.offer(2)
    core.tell(taken_over(3, 0))
    core.tell(taken_over(4, 10))
    core.offer(5)
    assert set(core.failed) == {5}

    order = []
    for ended in (1, 3, 4):
        core.end(ended, completed=True)
        order += [stream for stream in core.running if stream not in order]
    assert order == [3, 4, 2]


def test_a_dead_routers_streams_are_paced_by_the_retry_budget():
    core = DrivenCore("a", capacity=20, retry={"budget": {"share": 0.1, "min_retries": 2}})
    for stream_id in range(1, 7):
        core.tell(taken_over(stream_id, 10))
    assert len(core.running) == 2

    for stream_id in list(core.running):
        core.accept(stream_id, 100)
        core.tokens(stream_id)
    core.tick(0.1)
    assert len(core.running) == 4
