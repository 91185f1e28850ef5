"""What travels when a kept answer changes its owner."""

from __future__ import annotations

import pickle

from serve_app.core.errors import StreamCancelled
from serve_app.core.events import Accepted, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.token_channel.handover import Claim, HandedOver, Moved
from serve_app.token_channel.packed_events import pack, unpack

EVENTS: list[StreamEvent] = [Accepted(2, [1, 2]), TokenDelta(0, 0, 1, "a", [5])]


def test_what_is_handed_over_survives_pickling_with_its_error():
    request = GenerationRequest("r", "m", Prompt(text="hi"), retention=Retention("k"))
    part = HandedOver(request, (pack(EVENTS),), 1, True, StreamCancelled("enough"))
    copy = pickle.loads(pickle.dumps(part))

    assert unpack(copy.parts) == EVENTS
    assert isinstance(copy.error, StreamCancelled) and copy.error.message == "enough"
    assert pickle.loads(pickle.dumps(Moved())) == Moved()
    assert pickle.loads(pickle.dumps(Claim("k", "t", "r"))) == Claim("k", "t", "r")
