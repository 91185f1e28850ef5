"""Thousands of requests made from `/openapi.json`, right and wrong ones: no 5xx, and nothing that is not documented.

The seed is fixed, so that a run finds what the last one found. Raise `CASES_EACH` to look for more.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, checks, openapi
from schemathesis.core.result import Ok
from starlette.testclient import TestClient

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.openapi_check import CheckedApi, OpenApiCheck
from tests.unit.ingress.requests import CHAT, chat_body

CASES_EACH = 75
"""Requests by operation and kind (right or wrong); there are more than 18 operations and two kinds."""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_is_answered_with_5xx_or_with_what_is_not_documented() -> None:
    router = FakeRouter([speak("Hel", "lo")])
    check = OpenApiCheck()
    api = build_api(lambda: router, IngressConfig())
    app = CheckedApi(api, check)
    with TestClient(app) as client:
        began = client.post(CHAT, json=chat_body(stream=True), headers={"x-stream-resume": "true"})
        response = client.post("/v1/responses", json={"model": "test-model", "input": "x", "background": True})
    names = {"stream_id": began.headers["x-stream-id"], "response_id": response.json()["id"]}
    schema = openapi.from_dict(with_known_names(api.openapi(), names))
    schema.app = app
    cases = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(9)
            @settings(
                max_examples=CASES_EACH,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(found.ok().as_strategy(generation_mode=mode))
            def ask(case: Case[Any]) -> None:
                nonlocal cases
                cases += 1
                case.call_and_validate(checks=CHECKS)

            # Where nothing can be wrong, wrong requests cannot be made.
            with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
                ask()
    check.verify()
    assert cases >= 2000
    assert len(router.requests) > 100, "some are right, and are served"


def with_known_names(document: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """`document` with models and ids that exist: a made-up one never gets beyond 404."""
    document = copy.deepcopy(document)
    for name in ("ChatCompletionRequest", "CompletionRequest", "ResponseRequest"):
        document["components"]["schemas"][name]["properties"]["model"] = {"enum": ["test-model"]}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in names:
                    parameter["schema"] = {"enum": [names[parameter["name"]], "other"]}
                elif parameter["name"] == "model" and parameter["in"] == "query":
                    parameter["schema"] = {"enum": ["test-model"]}
    return document
