"""`docs/overload.md` is the contract with clients: its tables say what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from serve_app.core.errors import Refused, ServeAppError, error_from_code
from serve_app.ingress.grpc.status import code_of
from serve_app.openai_api.errors import document_of
from serve_app.resilience.admission_queue import AdmissionConfig
from serve_app.resilience.hedging import HedgingConfig
from serve_app.resilience.retry import RetryConfig
from serve_app.resilience.stream_timeouts import StreamTimeoutsConfig
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.config import FirstTokenObjectives, ReplicaPoliciesConfig

PAGE = (Path(__file__).parents[2] / "docs" / "overload.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "admission": AdmissionConfig,
    "first_token_objectives_s": FirstTokenObjectives,
    "hedging": HedgingConfig,
    "replicas": ReplicaPoliciesConfig,
    "retry": RetryConfig,
    "timeouts": StreamTimeoutsConfig,
}


def rows(section: str) -> Iterator[list[str]]:
    """The cells of each table row below the heading `section`, up to the next one."""
    body = PAGE.split(f"\n{section}\n", 1)[1].split("\n#", 1)[0]
    for line in body.splitlines():
        if line.startswith("| ") and not line.startswith(("| ---", "| case", "| key")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


CASES = {
    f"{case}: {code.group(1)}": (status, kind_and_code, headers, code.group(1))
    for case, status, kind_and_code, headers, *_ in rows("## Every case")
    if (code := re.search(r", `(\w+)`", kind_and_code)) and status != "–"
}


def errors(root: type[ServeAppError]) -> Iterator[type[ServeAppError]]:
    for child in root.__subclasses__():
        yield child
        yield from errors(child)


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_the_status_type_and_retry_advice_of_its_error(case: str) -> None:
    status, kind_and_code, headers, code = CASES[case]
    error = error_from_code(code, "message")
    assert error.code == code
    assert status.rstrip("¹²³") == str(error.status)
    assert kind_and_code.split("`")[1] in document_of(error).decode()
    advice = "advice" if isinstance(error, Refused) else "retry" if error.retryable else "no retry"
    assert headers == advice


GRPC_CASES = [
    (code, status.strip("`"))
    for _, _, kind_and_code, _, _, status, _ in rows("## Every case")
    for code in re.findall(r", `(\w+)`", kind_and_code)
]


@pytest.mark.parametrize(("code", "status"), GRPC_CASES)
def test_each_case_has_the_grpc_status_of_its_error(code: str, status: str) -> None:
    assert code_of(error_from_code(code, "message")).name == status


def test_every_error_that_a_client_can_see_is_in_the_table() -> None:
    internal = {"refused", "engine_error", "rejected", "engine_full", "wrong_replica"}  # abstract, or the router's own
    visible = {error.code for error in errors(ServeAppError) if error.status >= 429} - internal
    assert visible == {code for *_, code in CASES.values()} | {"client_too_slow", "replica_leaving"}


TABLES = ("Admission", "What each engine replica is sent", "Timeouts", "Retries", "Hedging")
KEYS = [
    (key.strip("`").replace("BAND", "default"), default.replace(",", ""))
    for heading in TABLES
    for key, default, _ in rows(f"### {heading}")
    if re.fullmatch(r"`[\w.]+`", key) and re.fullmatch(r"[\d.,]+|none|true|false", default)
]


@pytest.mark.parametrize(("key", "default"), KEYS)
def test_each_key_has_the_default_that_is_documented(key: str, default: str) -> None:
    section, *path = key.split(".")
    value: object = SECTIONS[section]() if section in SECTIONS else getattr(RouterConfig(), section)
    for name in path:
        value = getattr(value, name)
    words = {"none": None, "true": True, "false": False}
    documented = words[default] if default in words else float(default)
    assert value == documented or (default == "none" and not value)


@pytest.mark.parametrize("section", ["hedging", "retry", "timeouts"])
def test_every_key_of_these_sections_is_documented(section: str) -> None:
    def keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.default, BaseModel):
                yield from keys(type(field.default), f"{prefix}.{name}")
            else:
                yield f"{prefix}.{name}"

    assert {key for key, _ in KEYS if key.startswith(section)} == set(keys(SECTIONS[section], section))
