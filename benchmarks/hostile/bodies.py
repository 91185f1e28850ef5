"""Bodies of hostile requests: giant, deep, many, odd. Each is made once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache

from serve_app.ingress.config import IngressConfig

MIB = 2**20
_LIMIT = IngressConfig().max_body_bytes
"""Larger bodies are refused by their length alone."""
_LARGEST = _LIMIT - 1024


def _filled(model: str, before: str, item: str, after: str, size: int = _LARGEST) -> bytes:
    """A body of about `size` bytes: `item` again and again."""
    start = f'{{"model":"{model}",{before}'.encode()
    return start + item.encode() * ((size - len(start)) // len(item)) + after.encode()


_HELLO = '"messages":[{"role":"user","content":"hi"}]'
_MESSAGE = '{"role":"user","content":"a"}'
_CHAT: dict[str, Callable[[str], bytes]] = {
    "valid messages, up to the limit": lambda m: _filled(m, f'"messages":[{_MESSAGE}', f",{_MESSAGE}", "]}"),
    "valid content parts, up to the limit": lambda m: _filled(
        m, '"messages":[{"role":"user","content":[{"type":"text","text":"a"}', ',{"type":"text","text":"a"}', "]}]}"
    ),
    "one message, up to the limit": lambda m: _filled(m, '"messages":[{"role":"user","content":"', "====", '"}]}'),
    "a prompt that can never fit": lambda m: _filled(
        m, '"messages":[{"role":"user","content":"', "word ", '"}]}', 400_000
    ),
    "malformed messages, up to the limit": lambda m: _filled(m, '"messages":[{"role":"user"}', ',{"role":7}', "]}"),
    "malformed messages, half the limit": lambda m: _filled(
        m, '"messages":[{"role":"user"}', ',{"role":7}', "]}", _LIMIT // 2
    ),
    "unknown fields": lambda m: (
        f'{{"model":"{m}",{_HELLO},'.encode()
        + ",".join(f'"field{number}":0' for number in range(_LARGEST // 20)).encode()
        + b"}"
    ),
    "logit bias for all": lambda m: (
        f'{{"model":"{m}",{_HELLO},"logit_bias":{{'.encode()
        + ",".join(f'"{number}":1' for number in range(_LARGEST // 12)).encode()
        + b"}}"
    ),
    "stop strings, up to the limit": lambda m: _filled(m, f'{_HELLO},"stop":["a"', ',"bb"', "]}"),
    "nested 100,000 deep": lambda m: _filled(m, f'{_HELLO},"metadata":', "[", "", 100_000),
    "a number of a million digits": lambda m: _filled(m, f'{_HELLO},"max_tokens":1', "0", "}", MIB),
    "a field name of 100,000 characters": lambda m: _filled(m, f'{_HELLO},"', "x", '":1}', 100_000),
    "a model name of 100,000 characters": lambda m: _filled(m, f'{_HELLO},"model":"', "x", '"}', 100_000),
    "not UTF-8, 1 MiB": lambda _m: b"\xff" * MIB,
    "half surrogates": lambda m: _filled(m, '"messages":[{"role":"user","content":"', "\\ud800", '"}]}', 200_000),
    "zeros, up to the limit": lambda _m: b"\0" * _LARGEST,
    "twice the limit": lambda m: _filled(m, '"messages":[{"role":"user","content":"', "====", '"}]}', 2 * _LIMIT),
}
_COMPLETIONS: dict[str, Callable[[str], bytes]] = {
    "malformed prompt list, up to the limit": lambda m: _filled(m, '"prompt":[1', ",-1", "]}"),
    "malformed prompt list, half the limit": lambda m: _filled(m, '"prompt":[1', ",-1", "]}", _LIMIT // 2),
    "valid token ids, up to the limit": lambda m: _filled(m, '"prompt":[1', ",1", "]}"),
    "many prompts, up to the limit": lambda m: _filled(m, '"max_tokens":1,"prompt":["a"', ',"a"', "]}"),
    "n of 128": lambda m: json.dumps({"model": m, "prompt": ["a"] * 16, "n": 128, "max_tokens": 8}).encode(),
}
_RESPONSES: dict[str, Callable[[str], bytes]] = {
    "responses: input, up to the limit": lambda m: _filled(m, f'"input":[{_MESSAGE}', f",{_MESSAGE}", "]}"),
    "responses: nested 254 deep": lambda m: (
        f'{{"model":"{m}","input":"hi","max_output_tokens":4,"metadata":{"[" * 254}{"]" * 254}}}'.encode()
    ),
    "responses: tools, up to the limit": lambda m: _filled(m, '"input":"hi","tools":[{}', ",{}", "]}"),
}


def all_bodies() -> list[tuple[str, str]]:
    """Name and path of each."""
    chat, plain, responses = "/v1/chat/completions", "/v1/completions", "/v1/responses"
    return [*((n, chat) for n in _CHAT), *((n, plain) for n in _COMPLETIONS), *((n, responses) for n in _RESPONSES)]


@cache
def body(name: str, model: str) -> bytes:
    """The body of that name."""
    return {**_CHAT, **_COMPLETIONS, **_RESPONSES}[name](model)


@cache
def gzip_bomb(model: str) -> bytes:
    """A valid chat of 64 MiB in 64 KiB."""
    return gzip.compress(_filled(model, '"messages":[{"role":"user","content":"', "=" * 1024, '"}]}', 64 * MIB), 6)


@cache
def nested_metadata(model: str) -> bytes:
    """As deep as parsers let pass, as a field that is only kept."""
    return f'{{"model":"{model}",{_HELLO},"max_tokens":4,"metadata":{"[" * 254}{"]" * 254}}}'.encode()


@cache
def chat(model: str, tokens: int, stream: bool = True, content: str = "Tell me something.") -> bytes:
    """An ordinary request."""
    messages = [{"role": "user", "content": content}]
    fields = {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream, "ignore_eos": True}
    return json.dumps(fields).encode()
