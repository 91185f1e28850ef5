from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import StreamNotFound
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.ingress.resume.opening import AnswerEnvelope, envelope_of, fingerprint
from serve_app.openai_api.parse import Endpoint
from tests.support.loop_hold import LoopHold

ENVELOPE = AnswerEnvelope(Endpoint.COMPLETION, "cmpl-1", 1_700_000_000, "a/model", True, "seal")


def request(retention: Retention | None) -> GenerationRequest:
    return GenerationRequest("r", "m", Prompt(text="x"), retention=retention)


def test_what_was_retained_is_read_back() -> None:
    assert envelope_of(request(Retention("k", ENVELOPE.encode()))) == ENVELOPE
    assert ENVELOPE.envelope.id == "cmpl-1"


@pytest.mark.parametrize("retention", [None, Retention("k"), Retention("k", b"\x93\x01\x02\x03")])
def test_what_is_no_chat_or_completion_is_not_found(retention: Retention | None) -> None:
    with pytest.raises(StreamNotFound):
        envelope_of(request(retention))


def test_a_fingerprint_is_of_what_the_request_means() -> None:
    seal = fingerprint("/v1/completions", b'{"a":1,"b":[1,2]}')
    assert fingerprint("/v1/completions", b' { "b" : [1, 2], "a" : 1 }') == seal
    others = {
        fingerprint("/v1/completions", b'{"a":1,"b":[2,1]}'),
        fingerprint("/v1/completions", b'{"a":1}'),
        fingerprint("/v1/responses", b'{"a":1,"b":[1,2]}'),
    }
    assert len(others | {seal}) == 4


async def test_a_large_body_has_its_fingerprint_without_holding_the_loop() -> None:
    """In a thread: JSON of 8 MiB was read and sorted in 100 ms, and no other thread ran meanwhile."""
    body = b'{"prompt":[' + b",".join(b"%d" % number for number in range(1_000_000)) + b"]}"
    async with LoopHold() as hold:
        seal = await asyncio.to_thread(fingerprint, "/v1/completions", body)

    assert hold.longest_s < 0.05
    assert seal == fingerprint("/v1/completions", body) != fingerprint("/v1/completions", body + b" ")


@pytest.mark.parametrize("depth", [254, 1023, 1025, 100_000])
def test_a_document_of_any_depth_has_a_fingerprint(depth: int) -> None:
    nested = b'{"metadata":' + b"[" * depth + b"]" * depth + b"}"

    assert fingerprint("/v1/completions", nested) == fingerprint("/v1/completions", nested)
    assert fingerprint("/v1/completions", nested) != fingerprint("/v1/completions", nested + b" ")
