"""Request bodies of any size that are made to cost as much as they can."""

from __future__ import annotations

from collections.abc import Callable

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"


def _repeated(head: bytes, unit: bytes, tail: bytes) -> Callable[[int], bytes]:
    def body(size: int) -> bytes:
        units = (unit * ((size - len(head) - len(tail)) // len(unit))).removesuffix(b",")
        return head + units + tail

    return body


def _numbered(head: bytes, unit: bytes, tail: bytes) -> Callable[[int], bytes]:
    """As `_repeated`, with another number in each unit, for the keys of an object."""

    def body(size: int) -> bytes:
        made = bytearray(head)
        for number in range((size - len(head) - len(tail)) // (len(unit) + 6)):
            made += unit % number + b","
        return bytes(made[:-1]) + tail

    return body


_PROMPT = b'{"model":"test-model","prompt":'
_CONTENT = b'{"model":"test-model","messages":[{"role":"user","content":'
_INPUT = b'{"model":"test-model","input":'

SHAPES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "token ids": (COMPLETIONS, _repeated(_PROMPT + b"[", b"1,", b"]}")),
    "token ids, all but one wrong": (COMPLETIONS, _repeated(_PROMPT + b"[1,", b"-1,", b"]}")),
    "large token ids": (COMPLETIONS, _repeated(_PROMPT + b"[", b"12345,", b"]}")),
    "token ids that are floats": (COMPLETIONS, _repeated(_PROMPT + b"[1,", b"1.2345678901234567e-300,", b"]}")),
    "empty prompts": (COMPLETIONS, _repeated(_PROMPT + b"[", b'"",', b"]}")),
    "empty token lists": (COMPLETIONS, _repeated(_PROMPT + b"[", b"[],", b"]}")),
    "token lists": (COMPLETIONS, _repeated(_PROMPT + b"[", b"[1],", b"]}")),
    "objects as prompts": (COMPLETIONS, _repeated(_PROMPT + b"[", b'{"a":1},', b"]}")),
    "one text": (COMPLETIONS, _repeated(_PROMPT + b'"', b"a", b'"}')),
    "a text of commas and brackets": (COMPLETIONS, _repeated(_PROMPT + b'"', b"[1,2],", b'"}')),
    "a text of escaped quotes": (COMPLETIONS, _repeated(_PROMPT + b'"', rb"\"[,", b'"}')),
    "a text of backslashes": (COMPLETIONS, _repeated(_PROMPT + b'"', rb"\\", b'"}')),
    "a text of escapes": (COMPLETIONS, _repeated(_PROMPT + b'"', rb"\u4e2d", b'"}')),
    "a text of wide characters": (COMPLETIONS, _repeated(_PROMPT + b'"', "😀a".encode(), b'"}')),
    "a text that is not UTF-8": (COMPLETIONS, _repeated(_PROMPT + b'"', b"a", b'\xff"}')),
    "a lone surrogate": (COMPLETIONS, _repeated(_PROMPT + b'"', b"a", rb'\ud800"}')),
    "many messages": (CHAT, _repeated(_CONTENT + b'""}', b',{"role":"user","content":"a"}', b"]}")),
    "many wrong messages": (CHAT, _repeated(_CONTENT + b'""}', b",{}", b"]}")),
    "many parts": (CHAT, _repeated(_CONTENT + b"[", b'{"type":"text","text":"a"},', b"]}]}")),
    "a message of unknown fields": (CHAT, _numbered(_CONTENT + b'"",', b'"f%d":1', b"}]}")),
    "tools that are not supported": (CHAT, _repeated(_CONTENT + b'"a"}],"tools":[', b'{"type":"function"},', b"]}")),
    "an object of a million entries": (CHAT, _numbered(_CONTENT + b'"a"}],"logit_bias":{', b'"%d":1', b"}}")),
    "template arguments": (CHAT, _numbered(_CONTENT + b'"a"}],"chat_template_kwargs":{', b'"k%d":[]', b"}}")),
    "unknown parameters": (CHAT, _numbered(_CONTENT + b'"a"}],', b'"p%d":1', b"}")),
    "one parameter many times": (CHAT, _repeated(_CONTENT + b'"a"}],', b'"n":1,', b"}")),
    "metadata that is ignored": (CHAT, _repeated(_CONTENT + b'"a"}],"metadata":[', b"{},", b"]}")),
    "deep nesting": (CHAT, _repeated(_CONTENT + b'"a"}],"metadata":', b"[", b"")),
    "a number of many digits": (CHAT, _repeated(_CONTENT + b'"a"}],"n":', b"9", b"}")),
    "many stop strings": (CHAT, _repeated(_CONTENT + b'"a"}],"stop":[', b'"a",', b"]}")),
    "a very long model name": (CHAT, _repeated(b'{"messages":[{"role":"user","content":"a"}],"model":"', b"m", b'"}')),
    "a very long parameter name": (CHAT, _repeated(_CONTENT + b'"a"}],"', b"p", b'":1}')),
    "many input items": (RESPONSES, _repeated(_INPUT + b"[", b'{"role":"user","content":"a"},', b"]}")),
    "many input parts": (
        RESPONSES,
        _repeated(_INPUT + b'[{"role":"user","content":[', b'{"type":"input_text","text":"a"},', b"]}]}"),
    ),
    "wrong metadata": (RESPONSES, _numbered(_INPUT + b'"a","metadata":{', b'"m%d":1', b"}}")),
}
"""The path that each shape is for, and the body of about a size in bytes."""
