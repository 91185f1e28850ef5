"""Calls for a replica that is gone, which Serve brings to any other."""

from __future__ import annotations

import pytest

from serve_app.core.errors import WrongReplica
from serve_app.core.request import GenerationRequest, Prompt
from serve_app.engine.deployment import EngineDeployment
from serve_app.token_channel.endpoint import LiveStreams, ReplyTo
from serve_app.token_channel.handover import Claim, Moved
from serve_app.token_channel.retained_events import NOTHING_RETAINED, RetainedEvents
from tests.support.fake_engines import ENDPOINT

REPLY_TO = ReplyTo(ENDPOINT, 1, 1)


class Server:
    """Stands for the generation server: whatever it is asked, it answers with something."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def attach(self, endpoint) -> None:
        self.asked.append("attach")

    def keep_only(self, live) -> int:
        self.asked.append("keep_only")
        return 1

    def read_logs(self, router_id, positions) -> RetainedEvents:
        self.asked.append("read_logs")
        return NOTHING_RETAINED

    def metrics_text(self) -> bytes:
        self.asked.append("metrics_text")
        return b"x 1\n"

    def claim(self, claim) -> Moved:
        self.asked.append("claim")
        return Moved()

    async def generate(self, request, reply_to) -> int:
        self.asked.append("generate")
        return 3


class Replica(EngineDeployment):
    """The deployment without Serve, which starts and ends it."""

    async def __init__(self) -> None: ...  # type: ignore[misc]  # as in the deployment

    def __del__(self) -> None: ...  # type: ignore[override]  # nothing was started


@pytest.fixture
def replica():
    deployment = Replica.__new__(Replica)
    deployment._engine_id = "mine"
    deployment._server = Server()  # type: ignore[assignment]  # records what it is asked
    return deployment


async def upkeep(replica, target: str) -> list[object]:
    return [
        await replica.attach(ENDPOINT, target=target),
        await replica.keep_only(LiveStreams("r", 1, {}), target=target),
        await replica.read_logs("r", {(1, 1): 0}, target=target),
        await replica.metrics_text(target=target),
        await replica.claim(Claim("k", "t", "r"), target=target),
    ]


async def test_upkeep_calls_for_another_replica_do_nothing_and_raise_nothing(replica):
    assert await upkeep(replica, "gone") == [None] * 5
    assert replica._server.asked == []


async def test_upkeep_calls_for_this_replica_are_carried_out(replica):
    *_, log, metrics, answer = await upkeep(replica, "mine")

    assert replica._server.asked == ["attach", "keep_only", "read_logs", "metrics_text", "claim"]
    assert None not in (log, metrics, answer)


async def test_generation_for_another_replica_is_rejected(replica):
    request = GenerationRequest("r", "m", Prompt(text="hi"))

    with pytest.raises(WrongReplica, match="meant for gone"):
        await replica.generate(request, REPLY_TO, target="gone")

    assert await replica.generate(request, REPLY_TO, target="mine") == 3
