"""Structured logs: one JSON object per line, and one line per request when it settles.

A line says who asked for what and how it ended: ids, counts and times. Prompts, outputs and keys are never
among the values handed to it.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from serve_app.core.errors import ServeAppError
from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import GenerationRequest
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.stream_metrics import StreamMetrics

ROOT = "serve_app"
"""All loggers of the project are below this one: `logging.getLogger(__name__)`."""

_LONGEST_MODEL_NAME = 128
"""Characters kept of the name of a model that is not served, which may be anything."""

_LEVELS = {
    RequestOutcome.INTERNAL_ERROR: logging.ERROR,
    RequestOutcome.ENGINE_FAILED: logging.WARNING,
    RequestOutcome.STREAM_STALLED: logging.WARNING,
    RequestOutcome.NOT_CONTINUABLE: logging.WARNING,
    RequestOutcome.NO_ENGINE: logging.WARNING,
}


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time (UTC), level, logger, message, then the record's `fields`.

    Fields come from `logger.info("…", extra={"fields": {...}})`; values that JSON has no form for become their `str`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message and values hold."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream; installed by `configure_logging`, and told apart from others' handlers by its class."""


class _HostHandler(logging.Handler):
    """Hands finished lines to the logger of the host process, as Ray Serve's, whose handlers write them."""

    def __init__(self, host: logging.Logger) -> None:
        super().__init__()
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on with its line as the message."""
        line = {"msg": self.format(record), "args": None, "exc_info": None, "exc_text": None, "stack_info": None}
        self._host.handle(logging.makeLogRecord({**record.__dict__, **line}))


def configure_logging(config: TelemetryConfig, to: TextIO | logging.Logger | None = None) -> None:
    """Send the project's logs as JSON lines `to` a stream (stderr by default) or through another logger's handlers.

    Call once per process; a repeat replaces the first. Other libraries' loggers stay as they are, and the project's
    records do not reach the root logger's handlers: each is written once.
    """
    logger = logging.getLogger(ROOT)
    for handler in [h for h in logger.handlers if isinstance(h, _StreamHandler | _HostHandler)]:
        logger.removeHandler(handler)
    new = _HostHandler(to) if isinstance(to, logging.Logger) else _StreamHandler(to or sys.stderr)
    new.setFormatter(JsonFormatter())
    logger.addHandler(new)
    logger.setLevel(config.log_level.value)
    logger.propagate = False


class RequestLog:
    """Writes the one line of each settled request. Cheap when switched off."""

    def __init__(self, config: TelemetryConfig) -> None:
        self._enabled = config.request_log
        self._logger = logging.getLogger(f"{ROOT}.requests")

    def settled(
        self,
        request: GenerationRequest,
        stream: StreamMetrics,
        outcome: RequestOutcome,
        engine_id: str | None = None,
        error: ServeAppError | None = None,
    ) -> None:
        """Log `request`, after `stream.settled`. Faults on our side are warnings or errors, the rest is information.

        `engine_id` is the engine replica that served it last, None when none did. Of `error` only the code is written:
        its message may quote the request.
        """
        level = _LEVELS.get(outcome, logging.INFO)
        if self._enabled and self._logger.isEnabledFor(level):
            fields = request_fields(request, stream, outcome, engine_id, error)
            self._logger.log(level, "request settled", extra={"fields": fields})

    def handed_over(self, request: GenerationRequest, stream: StreamMetrics, engine_id: str | None) -> None:
        """Log that another router goes on with the stream and will write its line."""
        if self._enabled:
            fields = {
                "request_id": request.request_id,
                "model": request.model,
                "tenant": request.tenant,
                "engine_id": engine_id,
                "output_tokens": stream.output_tokens,
            }
            self._logger.info("stream handed over", extra={"fields": fields})

    def not_offered(self, request: GenerationRequest, error: ServeAppError) -> None:
        """Log a request that no model's queue was offered, as one for a model that is not served."""
        model = request.model[:_LONGEST_MODEL_NAME]
        self._write(request.request_id, model, request.tenant, request.priority.value, error)

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        """Log a request of which no more is known, since it could not be read."""
        self._write(request_id, None, tenant, None, error)

    def _write(
        self, request_id: str, model: str | None, tenant: str, priority: str | None, error: ServeAppError
    ) -> None:
        if self._enabled:
            fields = {
                "request_id": request_id,
                "model": model,
                "tenant": tenant,
                "priority": priority,
                "outcome": error.outcome.value,
                "error": error.code,
            }
            self._logger.info("request settled", extra={"fields": fields})


def request_fields(
    request: GenerationRequest,
    stream: StreamMetrics,
    outcome: RequestOutcome,
    engine_id: str | None,
    error: ServeAppError | None,
) -> dict[str, str | int | float | None]:
    """The fields of a request's line; times in seconds, but for the deadline: milliseconds from the offer, as the
    client gave it. None stands for what never happened."""
    return {
        "request_id": request.request_id,
        "model": request.model,
        "tenant": request.tenant,
        "priority": request.priority.value,
        "outcome": outcome.value,
        "error": error.code if error is not None else None,
        "refusal": stream.refusal.value if stream.refusal is not None else None,
        "deadline_ms": round(1000 * request.timeout_s) if request.timeout_s is not None else None,
        "engine_id": engine_id,
        "engines_tried": stream.engines_tried,
        "attempts": stream.attempts,
        "retries": stream.retries,
        "failovers": stream.failovers,
        "hedges": stream.hedges,
        "resumes": stream.resumes,
        "taken_from": stream.taken_from.value if stream.taken_from is not None else None,
        "prompt_tokens": stream.prompt_tokens,
        "cached_tokens": stream.cached_tokens,
        "output_tokens": stream.output_tokens,
        "repeated_tokens": stream.repeated_tokens,
        "queue_wait_s": _rounded(stream.queue_wait_s),
        "ttft_s": _rounded(stream.ttft_s),
        "tpot_s": _rounded(stream.tpot_s),
        "duration_s": _rounded(stream.duration_s),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
