"""What clients wrote, short enough for messages and logs."""

from __future__ import annotations

SHOWN_CHARACTERS = 100


def cut(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """`text`, or its beginning and an ellipsis: at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
