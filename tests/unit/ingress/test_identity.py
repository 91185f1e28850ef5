from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from serve_app.core.errors import InvalidRequest, ModelNotFound
from serve_app.core.interfaces import ModelCard
from serve_app.core.request import GenerationRequest, Priority, Prompt, Sampling
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.identity import AnyToken, Identity, Limits, bearer_token
from serve_app.ingress.request_context import Urgency

MODELS = [ModelCard("small", 0), ModelCard("large", 0)]


def token(raw: bytes) -> str | None:
    return bearer_token(Headers(raw=[(b"authorization", raw)]))


def asked(identity: Identity, sampling: Sampling | None = None, urgency: Urgency | None = None) -> GenerationRequest:
    urgency = urgency or Urgency(Priority.DEFAULT, None)
    return generation_request(identity, urgency, "r", "small", Prompt(text="hi"), sampling or Sampling())


# --- tokens


def test_the_tenant_is_a_stable_hash_of_the_token_and_not_the_token() -> None:
    tenant = AnyToken().identify("secret-key").tenant
    assert tenant == AnyToken().identify("secret-key").tenant
    assert tenant != AnyToken().identify("other-key").tenant
    assert "secret" not in tenant
    assert len(tenant) == 16


def test_no_token_means_anonymous_without_bounds() -> None:
    assert AnyToken().identify(None) == Identity("anonymous", Priority.INTERACTIVE, None, Limits(None))


def test_a_token_may_be_any_text() -> None:
    tenants = {AnyToken().identify(token).tenant for token in ("키", "é", "\ud800", "\x00")}
    assert len(tenants) == 4


@pytest.mark.parametrize("raw", [b"Bearer key", b"bearer  key", b"BEARER key "])
def test_the_bearer_token_is_read_whatever_its_scheme_is_written_like(raw: bytes) -> None:
    assert token(raw) == "key"


@pytest.mark.parametrize("raw", [b"", b"Bearer", b"Bearer ", b"Basic abc"])
def test_a_header_without_a_bearer_token_presents_none(raw: bytes) -> None:
    assert token(raw) is None


def test_a_token_is_the_same_in_a_header_and_in_a_message() -> None:
    assert token("Bearer 키".encode()) == "키"


def test_a_token_that_is_no_utf8_is_a_token_still() -> None:
    assert token(b"Bearer \xff\xfe") == "\xff\xfe"


# --- what an identity may


def test_only_models_in_scope_are_visible() -> None:
    identity = Identity("t", models=frozenset({"large"}))
    assert [card.id for card in identity.visible(MODELS)] == ["large"]
    assert identity.default_model(MODELS) == "large"
    assert Identity("t").default_model(MODELS) == "small"


def test_who_may_use_no_model_has_no_default() -> None:
    with pytest.raises(ModelNotFound):
        Identity("t", models=frozenset()).default_model(MODELS)


def test_a_model_out_of_scope_does_not_exist() -> None:
    with pytest.raises(ModelNotFound, match=r"'small' does not exist\. Served: large") as caught:
        asked(Identity("t", models=frozenset({"large"})))
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("wanted", "ceiling", "given"),
    [
        (Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.INTERACTIVE),
        (Priority.INTERACTIVE, Priority.BATCH, Priority.BATCH),
        (Priority.DEFAULT, Priority.BATCH, Priority.BATCH),
        (Priority.BATCH, Priority.DEFAULT, Priority.BATCH),
    ],
)
def test_priority_is_lowered_to_the_ceiling(wanted: Priority, ceiling: Priority, given: Priority) -> None:
    request = asked(Identity("t", priority_ceiling=ceiling), urgency=Urgency(wanted, 2.0))
    assert (request.priority, request.timeout_s, request.tenant) == (given, 2.0, "t")


def test_who_names_no_number_of_tokens_gets_the_limit() -> None:
    identity = Identity("t", limits=Limits(max_output_tokens=100))
    assert asked(identity).sampling.max_tokens == 100
    assert asked(identity, Sampling(max_tokens=100)).sampling.max_tokens == 100


def test_more_tokens_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 100") as caught:
        asked(Identity("t", limits=Limits(max_output_tokens=100)), Sampling(max_tokens=101))
    assert (caught.value.param, caught.value.error_code) == ("max_tokens", "invalid_value")
