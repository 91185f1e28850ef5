"""From a parsed request for a response to what is offered to the router: its conversation, its name, its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from serve_app.core.cut_text import cut
from serve_app.core.errors import InvalidRequest, PayloadTooLarge, StreamConflict, StreamNotFound
from serve_app.core.interfaces import KeptState, Router
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.identity import Identity
from serve_app.ingress.request_context import urgency_of
from serve_app.ingress.responses.response_id import response_found, response_key, signed_response_id
from serve_app.ingress.resume.opening import resume_headers
from serve_app.ingress.resume.stream_id import derived_key, new_key
from serve_app.openai_api.responses_document import ResponseRecord, conversation_after, record_of
from serve_app.openai_api.responses_parse import ParsedResponseRequest


@dataclass(frozen=True, slots=True)
class ResponseOffer:
    """A response that is to be generated, or that was begun by the same request before."""

    request: GenerationRequest
    record: ResponseRecord
    begun: bool = False
    """It exists already: it is to be read, not to be offered again."""


async def response_offer(
    router: Router,
    parsed: ParsedResponseRequest,
    identity: Identity,
    headers: Headers,
    config: IngressConfig,
    request_id: str,
    seal: str,
) -> ResponseOffer:
    """What `parsed` asks for. `seal` tells requests apart that come with the same `Idempotency-Key`.

    Raises `InvalidRequest` and its kinds, naming the field or header.
    """
    urgency, tenant = urgency_of(headers), identity.tenant
    resume = resume_headers(headers)
    name = resume.idempotency_key if resume is not None and parsed.store else None
    key = new_key() if name is None else derived_key(router.signing_key, "response", tenant, name)
    begun = name is not None and await _begun(router, key, tenant, seal)
    messages = parsed.messages
    if parsed.previous_response_id is not None and not begun:
        earlier = await _conversation(router, parsed.previous_response_id, tenant, config.max_body_bytes)
        messages = (*earlier, *messages)
    if parsed.instructions is not None:
        messages = ({"role": "system", "content": parsed.instructions}, *messages)
    record = ResponseRecord(
        id=signed_response_id(router, key, tenant),
        created_at=int(time.time()),
        background=parsed.background,
        instructed=parsed.instructions is not None,
        previous_response_id=parsed.previous_response_id,
        metadata=parsed.metadata,
        user=parsed.user,
        parallel_tool_calls=parsed.parallel_tool_calls,
        seal="" if name is None else seal,
    )
    grace_s = None if parsed.background else config.resume_grace_s
    retention = Retention(key, record.encode(), grace_s) if parsed.store else None
    request = generation_request(
        identity, urgency, request_id, parsed.model, Prompt(messages=messages), parsed.sampling, retention
    )
    return ResponseOffer(request, record, begun)


async def look_up_response(router: Router, response_id: str, tenant: str) -> KeptState:
    """A response as it stands. Raises `StreamNotFound` in the API's words."""
    with response_found(response_id):
        answer = await router.look_up(response_key(router, response_id, tenant), tenant)
        record_of(answer.request)
    return answer


def check_same(record: ResponseRecord, seal: str) -> None:
    """Raise `StreamConflict` when another request than that of `seal` began the response of its name."""
    if record.seal != seal:
        message = "Another request was sent with this 'Idempotency-Key': repeat that one, or take a new key."
        raise StreamConflict(message, "Idempotency-Key")


async def _begun(router: Router, key: str, tenant: str, seal: str) -> bool:
    """Whether the response exists. One that failed is forgotten: repeating a request is how clients answer failures."""
    try:
        found = await router.look_up(key, tenant)
        check_same(record_of(found.request), seal)
        if found.error is None:
            return True
        await router.cancel(key, tenant, forget=True)
    except StreamNotFound:
        pass
    return False


async def _conversation(router: Router, response_id: str, tenant: str, max_bytes: int) -> tuple[dict[str, Any], ...]:
    param = "previous_response_id"
    try:
        answer = await look_up_response(router, response_id, tenant)
    except StreamNotFound:
        message = f"Previous response with id '{cut(response_id)}' not found."
        raise InvalidRequest(message, param, "previous_response_not_found") from None
    if not answer.ended:
        raise InvalidRequest("The previous response has not ended yet.", param, "invalid_value")
    messages = conversation_after(record_of(answer.request), answer)
    if sum(len(str(message["content"])) for message in messages) > max_bytes:
        raise PayloadTooLarge("The conversation is too long.", param)
    return messages
