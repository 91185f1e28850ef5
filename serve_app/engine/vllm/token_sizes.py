"""How much text one token may cover, read from a tokenizer's own description.

Only what is known to keep all text is trusted: a normalizer may drop blanks, a word-piece model makes one token of any
unknown word, and then a prompt of any length may have few tokens.
"""

from __future__ import annotations

import json
from typing import Any

_NFC_SHRINKS = 3
"""Composing characters makes text at most this much shorter: three letters of Hangul, of three bytes each, are one."""
_KEEPS_TEXT = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts")


def longest_token_bytes(tokenizer: Any) -> int:
    """Bytes of text that one token covers at most; 0 when `tokenizer` does not tell, or there is no bound.

    Takes some tenths of a second for a large vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return 0 if backend is None else longest_described(json.loads(backend.to_str()))


def longest_described(description: dict[str, Any]) -> int:
    """The same for the description of a `tokenizers.Tokenizer`, as its `tokenizer.json` has it."""
    model = description.get("model") or {}
    steps = _steps(description.get("pre_tokenizer"), "pretokenizers")
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    whole = byte_level or bool(model.get("byte_fallback"))
    if model.get("type") not in ("BPE", "Unigram") or not whole or not all(_keeps_text(step) for step in steps):
        return 0
    added = description.get("added_tokens") or []
    if any(token.get("lstrip") or token.get("rstrip") for token in added):
        return 0
    shrinks = 1
    for step in _steps(description.get("normalizer"), "normalizers"):
        if step.get("type") == "NFC":
            shrinks *= _NFC_SHRINKS
        elif not _grows(step):
            return 0
    vocabulary = model.get("vocab") or {}
    pieces = list(vocabulary) if isinstance(vocabulary, dict) else [entry[0] for entry in vocabulary]
    # Of a byte-level vocabulary each character stands for a byte.
    longest = max((len(piece) if byte_level else len(piece.encode()) for piece in pieces), default=0)
    longest = max([longest, *(len(token["content"].encode()) for token in added)])
    return longest * shrinks


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part.get(key) or [] for step in _steps(inner, key)]


def _keeps_text(step: dict[str, Any]) -> bool:
    return step.get("type") in _KEEPS_TEXT and step.get("behavior") != "Removed"


def _grows(step: dict[str, Any]) -> bool:
    """Whether a normalizer leaves text at least as long as it was."""
    if step.get("type") == "Prepend":
        return True
    pattern = (step.get("pattern") or {}).get("String")
    return step.get("type") == "Replace" and pattern is not None and len(step["content"]) >= len(pattern)
