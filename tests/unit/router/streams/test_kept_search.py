"""Who is asked for a stream, how long, and which of several parts goes on. Waiting takes no time here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.core.events import Accepted, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.router.streams.kept_search import KeptSearch
from serve_app.telemetry.reasons import ResumedFrom
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.handover import Claim, ClaimReply, HandedOver, Moved
from tests.support.virtual_loop import run_virtual

CLAIM = Claim("k", "t", "r")
REQUEST = GenerationRequest("r", "m", Prompt(text="hi"), retention=Retention("k"))


def part(tokens: int) -> HandedOver:
    events: list[StreamEvent] = [Accepted(1, [1]), *(TokenDelta(0, place, 1, "a", [5]) for place in range(tokens))]
    return HandedOver(REQUEST, EventLog(events).parts(), tokens, ended=False)


class Others:
    """Answer as written, the last again when they run out."""

    def __init__(self, routers: list[list[ClaimReply]], engines: list[list[ClaimReply]]) -> None:
        self.routers, self.engines = routers, engines
        self.asked: list[str] = []

    async def ask_routers(self, claim: Claim) -> Sequence[ClaimReply]:
        self.asked.append("routers")
        return self.routers.pop(0) if len(self.routers) > 1 else self.routers[0]

    async def ask_engines(self, claim: Claim) -> Sequence[ClaimReply]:
        self.asked.append("engines")
        return self.engines.pop(0) if len(self.engines) > 1 else self.engines[0]


def find(others: Others, here_after: int = 1000) -> tuple[ResumedFrom, HandedOver | None, float]:
    """What is found, and the seconds that it took; it is here after so many questions."""

    async def main() -> tuple[ResumedFrom, HandedOver | None, float]:
        loop = asyncio.get_running_loop()
        search = KeptSearch(others, 5.0, loop.time)
        place, found = await search.find(CLAIM, lambda: len(others.asked) >= here_after)
        return place, found, loop.time()

    return run_virtual(main())


def test_engines_are_not_asked_when_a_router_has_it() -> None:
    others = Others([[None, part(3)]], [[part(9)]])

    assert find(others) == (ResumedFrom.ROUTER, part(3), 0.0)
    assert others.asked == ["routers"]


def test_engines_are_asked_when_no_router_has_it() -> None:
    assert find(Others([[None, None]], [[None, part(9)]])) == (ResumedFrom.ENGINE, part(9), 0.0)


def test_what_nobody_knows_is_not_looked_for_again() -> None:
    others = Others([[None]], [[None]])

    assert find(others)[1:] == (None, 0.0)
    assert others.asked == ["routers", "engines"]


def test_the_longest_of_several_parts_goes_on() -> None:
    assert find(Others([[]], [[part(3), part(9), part(5)]]))[1] == part(9)
    assert find(Others([[part(3), part(9), part(5)]], [[]]))[1] == part(9)


def test_one_that_is_on_its_way_is_waited_for() -> None:
    place, found, took_s = find(Others([[Moved()], [Moved()], [part(4), Moved()]], [[None]]))
    assert (place, found) == (ResumedFrom.ROUTER, part(4))
    assert 0.0 < took_s < 0.5

    assert find(Others([[None], [part(4)]], [[Moved()]]))[:2] == (ResumedFrom.ROUTER, part(4))


def test_one_that_never_arrives_is_given_up() -> None:
    _, found, took_s = find(Others([[Moved()]], [[None]]))

    assert found is None
    assert 5.0 <= took_s < 6.0


def test_one_that_came_here_meanwhile_is_not_looked_for_any_longer() -> None:
    others = Others([[Moved()]], [[None]])

    assert find(others, here_after=3)[1] is None
    assert len(others.asked) == 3
