"""The documents of `/v1/models`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from serve_app.core.cut_text import cut
from serve_app.core.errors import ModelNotFound
from serve_app.core.interfaces import ModelCard

_encode = msgspec.json.Encoder().encode


def model_list_document(cards: Iterable[ModelCard]) -> bytes:
    """The body of `GET /v1/models`."""
    return _encode({"object": "list", "data": [_model(card) for card in cards]})


def model_document(cards: Iterable[ModelCard], model_id: str) -> bytes:
    """The body of `GET /v1/models/{id}`. Raises `ModelNotFound`."""
    for card in cards:
        if card.id == model_id:
            return _encode(_model(card))
    raise ModelNotFound(f"The model '{cut(model_id)}' does not exist.", "model")


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": "serve_app",
        "max_model_len": card.max_model_len,
    }
