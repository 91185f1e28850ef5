"""Bodies of hostile requests: giant, deep, many, odd. Each is made once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache

MIB = 2**20
_LARGEST = 16 * MIB - 1024
"""Just below the bound that a body has in older versions. Larger ones are refused by their length alone."""


def _filled(model: str, before: str, item: str, after: str, size: int = _LARGEST) -> bytes:
    """A body of about `size` bytes: `item` again and again."""
    start = f'{{"model":"{model}",{before}'.encode()
    return start + item.encode() * ((size - len(start)) // len(item)) + after.encode()


_HELLO = '"messages":[{"role":"user","content":"hi"}]'
_MESSAGE = '{"role":"user","content":"a"}'
_CHAT: dict[str, Callable[[str], bytes]] = {
    "valid messages, 16 MiB": lambda m: _filled(m, f'"messages":[{_MESSAGE}', f",{_MESSAGE}", "]}"),
    "valid content parts, 16 MiB": lambda m: _filled(
        m, '"messages":[{"role":"user","content":[{"type":"text","text":"a"}', ',{"type":"text","text":"a"}', "]}]}"
    ),
    "one message, 16 MiB": lambda m: _filled(m, '"messages":[{"role":"user","content":"', "====", '"}]}'),
    "a prompt that can never fit": lambda m: _filled(
        m, '"messages":[{"role":"user","content":"', "word ", '"}]}', 5 * MIB
    ),
    "malformed messages, 2 MiB": lambda m: _filled(m, '"messages":[{"role":"user"}', ',{"role":7}', "]}", 2 * MIB),
    "malformed messages, 12 MiB": lambda m: _filled(m, '"messages":[{"role":"user"}', ',{"role":7}', "]}", 12 * MIB),
    "unknown fields, 8 MiB": lambda m: (
        f'{{"model":"{m}",{_HELLO},'.encode()
        + ",".join(f'"field{number}":0' for number in range(500_000)).encode()
        + b"}"
    ),
    "logit bias for all, 4 MiB": lambda m: (
        f'{{"model":"{m}",{_HELLO},"logit_bias":{{'.encode()
        + ",".join(f'"{number}":1' for number in range(350_000)).encode()
        + b"}}"
    ),
    "stop strings, 4 MiB": lambda m: _filled(m, f'{_HELLO},"stop":["a"', ',"bb"', "]}", 4 * MIB),
    "nested 100,000 deep": lambda m: _filled(m, f'{_HELLO},"metadata":', "[", "", 100_000),
    "a number of a million digits": lambda m: _filled(m, f'{_HELLO},"max_tokens":1', "0", "}", MIB),
    "a field name of 100,000 characters": lambda m: _filled(m, f'{_HELLO},"', "x", '":1}', 100_000),
    "a model name of 100,000 characters": lambda m: _filled(m, f'{_HELLO},"model":"', "x", '"}', 100_000),
    "not UTF-8, 1 MiB": lambda _m: b"\xff" * MIB,
    "half surrogates": lambda m: _filled(m, '"messages":[{"role":"user","content":"', "\\ud800", '"}]}', 200_000),
    "zeros, 16 MiB": lambda _m: b"\0" * _LARGEST,
}
_COMPLETIONS: dict[str, Callable[[str], bytes]] = {
    "malformed prompt list, 2 MiB": lambda m: _filled(m, '"prompt":[1', ",-1", "]}", 2 * MIB),
    "malformed prompt list, 12 MiB": lambda m: _filled(m, '"prompt":[1', ",-1", "]}", 12 * MIB),
    "valid token ids, 16 MiB": lambda m: _filled(m, '"prompt":[1', ",1", "]}"),
    "many prompts, 4 MiB": lambda m: _filled(m, '"max_tokens":1,"prompt":["a"', ',"a"', "]}", 4 * MIB),
    "n of 128": lambda m: json.dumps({"model": m, "prompt": ["a"] * 16, "n": 128, "max_tokens": 8}).encode(),
}
_RESPONSES: dict[str, Callable[[str], bytes]] = {
    "responses: input, 16 MiB": lambda m: _filled(m, f'"input":[{_MESSAGE}', f",{_MESSAGE}", "]}"),
    "responses: nested 254 deep": lambda m: (
        f'{{"model":"{m}","input":"hi","max_output_tokens":4,"metadata":{"[" * 254}{"]" * 254}}}'.encode()
    ),
    "responses: tools, 4 MiB": lambda m: _filled(m, '"input":"hi","tools":[{}', ",{}", "]}", 4 * MIB),
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
