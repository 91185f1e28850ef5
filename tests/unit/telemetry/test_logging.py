"""One line of JSON per record and per settled request, without anything private in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from serve_app.core.errors import EngineLost, InvalidRequest, ModelNotFound, ServeAppError
from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import GenerationRequest, Priority, Prompt
from serve_app.telemetry.config import LogLevel, TelemetryConfig
from serve_app.telemetry.logging import ROOT, RequestLog, configure_logging
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import HedgeOutcome, RefusalReason, RequeueReason

REQUEST = GenerationRequest("req-1", "smol", Prompt(text="my secret"), tenant="t-1")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    logger = logging.getLogger(ROOT)
    before = (list(logger.handlers), logger.level, logger.propagate)
    stream = io.StringIO()
    configure_logging(TelemetryConfig(), stream)
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before


def settle(
    outcome: RequestOutcome, *, error: ServeAppError | None = None, config: TelemetryConfig | None = None
) -> None:
    stream = ServeMetrics(CollectorRegistry(), ["smol"]).offered("smol", 100.0)
    stream.dispatched(100.25, "engine-7")
    stream.accepted(prompt_tokens=12)
    for now in (101.0, 101.1, 101.2):
        stream.on_tokens(1, now)
    stream.settled(outcome, 102.0, output_tokens=3, cached_tokens=8)
    RequestLog(config or TelemetryConfig()).settled(REQUEST, stream, outcome, "engine-7", error)


def lines(written: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_settled_request_is_one_line_with_its_ids_counts_and_times(written: io.StringIO) -> None:
    settle(RequestOutcome.COMPLETED)

    (line,) = lines(written)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "serve_app.requests",
        "message": "request settled",
        "request_id": "req-1",
        "model": "smol",
        "tenant": "t-1",
        "priority": "default",
        "outcome": "completed",
        "error": None,
        "refusal": None,
        "deadline_ms": None,
        "engine_id": "engine-7",
        "engines_tried": 1,
        "attempts": 1,
        "retries": 0,
        "failovers": 0,
        "hedges": 0,
        "resumes": 0,
        "taken_from": None,
        "prompt_tokens": 12,
        "cached_tokens": 8,
        "output_tokens": 3,
        "repeated_tokens": 0,
        "queue_wait_s": 0.25,
        "ttft_s": 1.0,
        "tpot_s": 0.1,
        "duration_s": 2.0,
    }


def test_a_line_tells_what_it_took_to_serve_a_request_and_its_band_and_deadline(written: io.StringIO) -> None:
    request = replace(REQUEST, priority=Priority.BATCH, timeout_s=2.5)
    stream = ServeMetrics(CollectorRegistry(), ["smol"]).offered("smol", 0.0, priority=request.priority)
    stream.dispatched(0.1, "e1")
    stream.requeued(RequeueReason.ENGINE_FULL)
    stream.dispatched(0.2, "e2")
    stream.requeued(RequeueReason.ENGINE_FAILED, wasted_tokens=12)
    stream.dispatched(0.3, "e1")
    stream.hedged("e3")
    stream.hedge_settled(HedgeOutcome.LOST, RequeueReason.OUTRUN, 10)
    stream.on_tokens(3, 0.4)
    stream.requeued(RequeueReason.ENGINE_LOST, wasted_tokens=15)
    stream.dispatched(0.5, "e2", replay=True)
    stream.settled(RequestOutcome.COMPLETED, 1.0)
    RequestLog(TelemetryConfig()).settled(request, stream, RequestOutcome.COMPLETED, "e2")

    (line,) = lines(written)
    assert (line["priority"], line["deadline_ms"], line["refusal"]) == ("batch", 2500, None)
    assert (line["attempts"], line["retries"], line["failovers"]) == (5, 1, 1)
    assert (line["hedges"], line["engines_tried"], line["repeated_tokens"]) == (1, 3, 37)


def test_a_line_tells_why_a_request_was_refused(written: io.StringIO) -> None:
    stream = ServeMetrics(CollectorRegistry(), ["smol"]).offered("smol", 0.0)
    stream.refused(RefusalReason.OBJECTIVE)
    stream.settled(RequestOutcome.DEADLINE_UNATTAINABLE, 0.0)
    RequestLog(TelemetryConfig()).settled(REQUEST, stream, RequestOutcome.DEADLINE_UNATTAINABLE)

    (line,) = lines(written)
    assert (line["outcome"], line["refusal"]) == ("deadline_unattainable", "objective")
    assert (line["attempts"], line["engines_tried"], line["engine_id"]) == (0, 0, None)


def test_a_request_for_a_model_that_is_not_served_is_one_line_too(written: io.StringIO) -> None:
    request = replace(REQUEST, model="x" * 1000)
    RequestLog(TelemetryConfig()).not_offered(request, ModelNotFound("no 'my secret'"))
    RequestLog(TelemetryConfig(request_log=False)).not_offered(request, ModelNotFound("no"))

    (line,) = lines(written)
    assert (line["request_id"], line["outcome"], line["error"]) == ("req-1", "invalid", "model_not_found")
    assert line["model"] == "x" * 128
    assert "secret" not in written.getvalue()


def test_a_request_that_could_not_be_read_is_one_line_too(written: io.StringIO) -> None:
    RequestLog(TelemetryConfig()).turned_away("req-1", "tenant", InvalidRequest("'my secret' is not a number"))
    RequestLog(TelemetryConfig(request_log=False)).turned_away("req-2", "tenant", InvalidRequest("no"))

    (line,) = lines(written)
    assert (line["request_id"], line["tenant"], line["model"]) == ("req-1", "tenant", None)
    assert (line["outcome"], line["error"]) == ("invalid", "invalid_value")
    assert "secret" not in written.getvalue()


def test_neither_prompt_nor_error_message_is_written(written: io.StringIO) -> None:
    settle(RequestOutcome.INVALID, error=InvalidRequest("cannot parse 'my secret'"))

    assert "secret" not in written.getvalue()
    assert lines(written)[0]["error"] == "invalid_value"


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (RequestOutcome.CANCELLED, "INFO"),
        (RequestOutcome.QUEUE_FULL, "INFO"),
        (RequestOutcome.ENGINE_FAILED, "WARNING"),
        (RequestOutcome.STREAM_STALLED, "WARNING"),
        (RequestOutcome.NOT_CONTINUABLE, "WARNING"),
        (RequestOutcome.NO_ENGINE, "WARNING"),
        (RequestOutcome.INTERNAL_ERROR, "ERROR"),
    ],
)
def test_faults_on_our_side_stand_out(written: io.StringIO, outcome: RequestOutcome, level: str) -> None:
    settle(outcome, error=EngineLost("gone"))

    assert lines(written)[0]["level"] == level


def test_the_request_log_can_be_switched_off(written: io.StringIO) -> None:
    settle(RequestOutcome.ENGINE_FAILED, config=TelemetryConfig(request_log=False))

    assert written.getvalue() == ""


def test_configuring_again_replaces_the_first_configuration(written: io.StringIO) -> None:
    again = io.StringIO()
    configure_logging(TelemetryConfig(log_level=LogLevel.WARNING), again)

    logging.getLogger("serve_app.router").info("quiet")
    logging.getLogger("serve_app.router").warning("loud")

    assert written.getvalue() == ""
    assert [line["message"] for line in lines(again)] == ["loud"]


def test_a_line_stays_one_line_whatever_it_holds(written: io.StringIO) -> None:
    logger = logging.getLogger("serve_app.test")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("forged\n{}", extra={"fields": {"path": object, "bad": "\u2028\n"}})

    (line,) = lines(written)
    assert line["message"] == "forged\n{}"
    assert "ValueError" in str(line["exception"])


def test_other_loggers_and_the_root_are_left_alone(written: io.StringIO) -> None:
    theirs = io.StringIO()
    at_root = logging.StreamHandler(theirs)
    logging.getLogger().addHandler(at_root)
    try:
        logging.getLogger("somebody.else").warning("theirs")
        logging.getLogger("serve_app.router").warning("ours")
    finally:
        logging.getLogger().removeHandler(at_root)

    assert theirs.getvalue() == "theirs\n"
    assert [line["message"] for line in lines(written)] == ["ours"]


def test_an_unknown_key_of_the_configuration_fails() -> None:
    with pytest.raises(ValidationError, match="log_levle"):
        TelemetryConfig.model_validate({"log_levle": "INFO"})


def test_lines_go_through_a_hosts_handlers_instead_of_the_stream(written):
    host, stream = logging.Logger("host"), io.StringIO()
    host.addHandler(logging.StreamHandler(stream))
    configure_logging(TelemetryConfig(), host)
    logging.getLogger(f"{ROOT}.x").warning("100%% of %s", "it", extra={"fields": {"n": 1}})
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger(f"{ROOT}.x").exception("broke")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["n"], first["level"]) == ("100% of it", 1, "WARNING")
    assert "boom" in second["exception"]
    assert written.getvalue() == ""
