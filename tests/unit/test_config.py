from __future__ import annotations

import pytest

from serve_app.config import FAST_PATH_ENVIRONMENT, ConfigError, load_config, missing_fast_path
from serve_app.core.served_models import Target
from serve_app.resilience.admission_queue import WhenFull
from tools.fast_path import HAPROXY_ENVIRONMENT

SIMULATED = {"id": "org/model:1", "engine": {"kind": "simulated"}}


def explain(args) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(args)
    return str(raised.value)


def test_defaults_need_one_model_only():
    config = load_config({"models": [SIMULATED]})

    assert config.router.admission.when_full is WhenFull.REFUSE
    assert config.models[0].deployment_name == "Engine-org-model-1"


def test_unknown_key_is_named_with_what_is_allowed():
    message = explain({"models": [SIMULATED], "router": {"admission": {"queue_limit": 5}}})

    assert "router.admission.queue_limit: unknown key" in message
    assert "queue_timeout_s" in message


def test_unknown_top_level_key_is_named_with_what_is_allowed():
    message = explain({"models": [SIMULATED], "routes": {}})

    assert "routes: unknown key; allowed: channel, ingress, models, router, telemetry" in message


def test_unknown_engine_key_is_named_with_that_kinds_keys():
    message = explain({"models": [{"id": "m", "engine": {"kind": "simulated", "load_seconds": 3}}]})

    assert "load_seconds: unknown key" in message
    assert "load_s" in message
    assert "queue_timeout_s" not in message


def test_wrong_type_is_named_with_its_value():
    message = explain({"models": [SIMULATED], "router": {"no_engine_timeout_s": "soon"}})

    assert "router.no_engine_timeout_s" in message
    assert "'soon'" in message


def test_unknown_engine_kind_is_named_with_the_kinds():
    message = explain({"models": [{"id": "m", "engine": {"kind": "magic"}}]})

    assert "kind" in message
    assert "simulated" in message


def test_all_problems_are_told_at_once():
    message = explain({"models": [], "router": {"a": 1, "b": 2}})

    assert all(name in message for name in ("models", "router.a", "router.b"))


def test_wrong_item_of_a_list_is_told_without_calling_the_list_too_short():
    message = explain({"models": [{"id": "m", "engine": {"kind": "simulated", "load_seconds": 3}}]})

    assert message.count("\n") == 1
    assert "at least 1 item" not in message
    assert "at least 1 item" in explain({"models": []})


def test_models_must_not_share_a_name_or_deployment():
    assert "id or alias used more than once: m" in explain(
        {"models": [{**SIMULATED, "id": "m"}, {**SIMULATED, "id": "m"}]}
    )
    assert "id or alias used more than once: m" in explain(
        {"models": [{**SIMULATED, "id": "m"}, {**SIMULATED, "id": "n", "aliases": ["m"]}]}
    )
    assert "deployment used more than once" in explain(
        {"models": [{**SIMULATED, "id": "a/b"}, {**SIMULATED, "id": "a-b"}]}
    )
    assert "Router" in explain({"models": [{**SIMULATED, "deployment": "Router"}]})


def test_an_alias_stands_for_the_pool_of_its_model_and_is_listed_behind_the_models():
    models = [{**SIMULATED, "id": "a", "aliases": ["gpt-4o-mini"]}, {**SIMULATED, "id": "b", "deployment": "Bee"}]
    served = load_config({"models": models}).served_models()

    assert list(served.targets) == ["a", "b", "gpt-4o-mini"]
    assert served.resolve("gpt-4o-mini") == served.resolve("a") == Target("a")
    assert served.pools == {"a": ("Engine-a",), "b": ("Bee",)}


def test_fast_path_settings_that_are_missing_are_named():
    complete = dict(FAST_PATH_ENVIRONMENT)
    assert missing_fast_path(complete) == []
    del complete["RAY_SERVE_THROUGHPUT_OPTIMIZED"]
    assert missing_fast_path(complete) == ["RAY_SERVE_THROUGHPUT_OPTIMIZED=1"]
    assert HAPROXY_ENVIRONMENT == FAST_PATH_ENVIRONMENT
