"""The gRPC services: `ChatService`, `LLMService` and `grpc.health.v1.Health`, over a router.

An error ends a call with its status. Serve takes status and trailing metadata from a deployment only together with a
message, so that a stream which fails sends its error as a last message too; clients of other streams need it anyway.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.core.errors import InternalError, ReplicaLeaving, ServeAppError
from serve_app.core.interfaces import Router
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.grpc import health as grpc_health
from serve_app.ingress.grpc.answer import AnswerWriter, usage_message
from serve_app.ingress.grpc.call import Call, CallContext, headers_of
from serve_app.ingress.grpc.conversation import Conversation
from serve_app.ingress.grpc.generation import Generation, Generations, known_error
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.proto.llm_pb2 import LLMReply, LLMRequest
from serve_app.ingress.grpc.request import in_message
from serve_app.ingress.grpc.status import status_of
from serve_app.ingress.identity import AnyToken, Authenticator
from serve_app.ingress.request_context import request_id_of
from serve_app.openai_api.collected_answer import CollectedAnswer

_ANY_TOKEN = AnyToken()


def build_grpc(
    router: Router,
    config: IngressConfig,
    authenticator: Authenticator = _ANY_TOKEN,
    under_way: BytesUnderWay | None = None,
) -> GrpcServices:
    """The services over `router`; `authenticator` decides who may use all but the health service.

    `under_way` is the account of what is being read, when it is shared with other protocols.
    """
    under_way = under_way or BytesUnderWay(config.max_bytes_under_way)
    return GrpcServices(Generations(router, config, under_way, authenticator=authenticator))


class GrpcServices:
    """One method for each method of the services; all may run concurrently on the router's event loop."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._router = generations.router
        self._config = generations.config.grpc

    async def ask(self, request: LLMRequest, context: CallContext) -> LLMReply:
        """`LLMService.Ask`."""
        began_at = self._generations.clock()
        try:
            call = self._generations.call(context)
            reply = await self._whole(request, call)
        except Exception as error:
            known = in_message(known_error(error, request_id_of(headers_of(context))), request)
            status_of(known).put_on(context)
            return LLMReply()
        reply.latency_ms = (self._generations.clock() - began_at) * 1000
        return reply

    async def stream_chat(self, request: ChatRequest, context: CallContext) -> AsyncGenerator[ChatResponse, None]:
        """`ChatService.StreamChat`."""
        try:
            call = self._generations.call(context)
            generation = self._generations.new(request, call, call.request_id)
        except ServeAppError as error:
            status_of(error).put_on(context)
            yield AnswerWriter(request.id, lambda: 0.0).failed(error)
            return
        try:
            if request.cancel:
                await self._generations.stop(request, call)
                yield generation.cancelled()
                return
            async with aclosing(generation.messages()) as messages:
                async for message in messages:
                    yield message
        except Exception as error:
            yield self._failed(generation, error, context)
        finally:
            generation.discard()

    async def bi_stream_chat(
        self, requests: AsyncIterator[ChatRequest], context: CallContext
    ) -> AsyncGenerator[ChatResponse, None]:
        """`ChatService.BiStreamChat`."""
        try:
            conversation = Conversation(self._generations, self._generations.call(context))
            async with aclosing(conversation.messages(requests)) as messages:
                async for message in messages:
                    yield message
        except Exception as error:
            # When the replica leaves nothing has failed: all that was open is answered.
            leaving = error if isinstance(error, ReplicaLeaving) else None
            known = leaving or known_error(error, request_id_of(headers_of(context)))
            status_of(known).put_on(context)
            yield AnswerWriter("", lambda: 0.0).failed(known)

    async def check(self, request: HealthCheckRequest, context: CallContext) -> HealthCheckResponse:
        """`grpc.health.v1.Health.Check`."""
        state = grpc_health.check(self._router, request)
        if state is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"There is no service '{request.service[:100]}'.")
        return state or HealthCheckResponse()

    async def watch(self, request: HealthCheckRequest) -> AsyncGenerator[HealthCheckResponse, None]:
        """`grpc.health.v1.Health.Watch`."""
        async with aclosing(grpc_health.watch(self._router, request, self._config)) as states:
            async for state in states:
                yield state

    async def _whole(self, message: LLMRequest, call: Call) -> LLMReply:
        request, stream = await self._generations.open_whole(message, call)
        answer = CollectedAnswer()
        try:
            while (events := await stream.next()) is not None:
                answer.read(events)
        finally:
            await close_completely(stream)
        finished = answer.first.finished
        if finished is None:
            raise InternalError("The stream ended before the answer did.")
        return LLMReply(
            id=request.request_id,
            model=request.model,
            response=answer.first.text,
            finish_reason=finished.reason.value,
            usage=usage_message(answer.usage),
        )

    @staticmethod
    def _failed(generation: Generation, error: Exception, context: CallContext) -> ChatResponse:
        known, message = generation.failed(error)
        status_of(known).put_on(context)
        return message
