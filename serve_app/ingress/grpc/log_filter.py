"""Keeps what clients send as metadata out of the logs of grpcio itself."""

from __future__ import annotations

import logging

_GRPC_LOGGER = "grpc._cython.cygrpc"
_TELLS_THE_VALUE = "Invalid encoding on"


class _HideMetadata(logging.Filter):
    """grpcio writes a whole value that is no UTF-8, and its traceback one byte of it: it may be somebody's key."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record through, without what the client sent."""
        if str(record.msg).startswith(_TELLS_THE_VALUE):
            record.msg, record.args = "a client sent metadata that is no UTF-8", None
            record.exc_info = record.exc_text = None
        return True


def hide_metadata() -> None:
    """Filter grpcio's log of this process. Idempotent."""
    logger = logging.getLogger(_GRPC_LOGGER)
    if not any(isinstance(each, _HideMetadata) for each in logger.filters):
        logger.addFilter(_HideMetadata())
