"""One secret for each application, whoever asks first."""

from __future__ import annotations

import pytest
from ray.experimental import internal_kv

from serve_app.router.serve.shared_secret import shared_secret


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], bytes]:
    """Ray's key-value store."""
    held: dict[tuple[str, str], bytes] = {}

    def put(key: str, value: bytes, overwrite: bool = True, *, namespace: str) -> bool:
        existed = (namespace, key) in held
        if overwrite or not existed:
            held[namespace, key] = value
        return existed

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, *, namespace: held.get((namespace, key)))
    return held


def test_all_who_ask_get_the_secret_of_the_first() -> None:
    first = shared_secret("app")

    assert shared_secret("app") == first
    assert len(first) == 32


def test_applications_have_secrets_of_their_own() -> None:
    assert shared_secret("one") != shared_secret("two")
