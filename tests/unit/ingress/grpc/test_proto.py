"""The generated code is that of the .proto files, and clients of the first messages still understand us."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from serve_app.ingress.grpc.proto import chat_pb2, generation_pb2, llm_pb2

FOLDER = Path(chat_pb2.__file__).parent
FILES = {"chat": chat_pb2, "generation": generation_pb2, "llm": llm_pb2}


@pytest.mark.parametrize("name", FILES)
def test_generated_code_has_the_fields_of_its_file(name: str) -> None:
    text = (FOLDER / f"{name}.proto").read_text()
    declared = {
        (message, field, int(number))
        for message, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
        for field, number in re.findall(r"^  [\w. ]* (\w+) = (\d+);", body, re.MULTILINE)
    }
    messages = FILES[name].DESCRIPTOR.message_types_by_name
    generated = {(kind, field.name, field.number) for kind, each in messages.items() for field in each.fields}
    assert declared == generated and declared


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_generated_code(name: str) -> None:
    assert {path.stem for path in FOLDER.glob("*.proto")} == FILES.keys()
    has_services = "\nservice " in (FOLDER / f"{name}.proto").read_text()
    assert (FOLDER / f"{name}_pb2_grpc.py").exists() == has_services


FIELD_TYPES = {"string": 9, "int32": 5, "bool": 8, "float": 2}
FIRST_MESSAGES = {
    "LLMRequest": {"prompt": ("string", 1)},
    "LLMReply": {"response": ("string", 1)},
    "ChatRequest": {"prompt": ("string", 1), "max_tokens": ("int32", 2)},
    "ChatResponse": {"token": ("string", 1), "done": ("bool", 2), "latency_ms": ("float", 3)},
}
"""As the clients that exist have them."""


def first_message(kind: str) -> Any:
    """A class of messages that knows nothing of the fields that came later."""
    file = descriptor_pb2.FileDescriptorProto(name="first.proto", syntax="proto3")
    message = file.message_type.add(name=kind)
    for name, (type_name, number) in FIRST_MESSAGES[kind].items():
        message.field.add(name=name, number=number, type=FIELD_TYPES[type_name], label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(kind))


def test_requests_of_existing_clients_are_understood() -> None:
    chat = chat_pb2.ChatRequest.FromString(first_message("ChatRequest")(prompt="Hi", max_tokens=5).SerializeToString())
    assert chat == chat_pb2.ChatRequest(prompt="Hi", max_tokens=5)
    ask = llm_pb2.LLMRequest.FromString(first_message("LLMRequest")(prompt="Hi").SerializeToString())
    assert ask == llm_pb2.LLMRequest(prompt="Hi")


def test_existing_clients_understand_answers() -> None:
    answer = chat_pb2.ChatResponse(token="a", latency_ms=2.5, id="x", position=1, usage=generation_pb2.Usage())
    seen = first_message("ChatResponse").FromString(answer.SerializeToString())
    assert (seen.token, seen.done, seen.latency_ms) == ("a", False, 2.5)
    reply = llm_pb2.LLMReply(response="Paris", model="m")
    assert first_message("LLMReply").FromString(reply.SerializeToString()).response == "Paris"
