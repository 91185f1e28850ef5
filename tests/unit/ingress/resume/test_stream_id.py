from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import StreamNotFound
from serve_app.ingress.resume.stream_id import derived_key, new_key, read_event_id, sign, verify

SECRET = b"secret"
KEY = "00112233445566778899aabbccddeeff"
ID = sign(SECRET, KEY, "tenant")


@given(st.binary(min_size=16, max_size=16), st.text())
def test_an_id_leads_its_tenant_back_to_the_key(key: bytes, tenant: str) -> None:
    token = sign(SECRET, key.hex(), tenant)
    assert re.fullmatch(r"[A-Za-z0-9_-]{38}", token)
    assert verify(SECRET, token, tenant) == key.hex()


@pytest.mark.parametrize(
    ("secret", "token", "tenant"),
    [
        (SECRET, ID, "other"),
        (b"another secret", ID, "tenant"),
        (SECRET, "", "tenant"),
        (SECRET, ID[:-1], "tenant"),
        (SECRET, ID + "A", "tenant"),
        (SECRET, ID + "=", "tenant"),
        (SECRET, ID + "\n", "tenant"),
        (SECRET, "é" * 38, "tenant"),
        (SECRET, "x" * 100_000, "tenant"),
    ],
)
def test_any_other_id_names_no_stream(secret: bytes, token: str, tenant: str) -> None:
    with pytest.raises(StreamNotFound):
        verify(secret, token, tenant)


def test_changing_any_character_of_an_id_spoils_it() -> None:
    for index, character in enumerate(ID):
        for other in "AQgw_-":
            if other != character:
                with pytest.raises(StreamNotFound):
                    verify(SECRET, ID[:index] + other + ID[index + 1 :], "tenant")


def test_only_keys_can_be_signed() -> None:
    for wrong in ("", KEY.upper(), KEY[:-1], KEY + "0", "g" * 32):
        with pytest.raises(ValueError, match="hexadecimal"):
            sign(SECRET, wrong, "tenant")


def test_an_event_id_holds_the_position() -> None:
    assert read_event_id(SECRET, f"{ID}.0", "tenant") == (KEY, 0)
    assert read_event_id(SECRET, f"{ID}.1234", "tenant") == (KEY, 1234)


@pytest.mark.parametrize("position", ["", ".", ".-1", ".1e3", ".1.2", ". 1", ".1 ", ".1_0", ".٣", "." + "9" * 10])
def test_an_event_id_without_a_plain_position_names_no_stream(position: str) -> None:
    with pytest.raises(StreamNotFound):
        read_event_id(SECRET, ID + position, "tenant")


def test_new_keys_differ_and_are_fit_to_be_signed() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert verify(SECRET, sign(SECRET, key, "t"), "t") == key


def test_a_derived_key_is_the_same_for_the_same_name_and_secret_alone() -> None:
    key = derived_key(SECRET, "idempotency", "tenant", "abc")
    assert verify(SECRET, sign(SECRET, key, "t"), "t") == key
    assert key == derived_key(SECRET, "idempotency", "tenant", "abc")
    others = {
        derived_key(b"another", "idempotency", "tenant", "abc"),
        derived_key(SECRET, "prompt", "tenant", "abc"),
        derived_key(SECRET, "idempotency", "tenanta", "bc"),
        derived_key(SECRET, "idempotency", "tenant", "ab", "c"),
        derived_key(SECRET, "idempotency", "tenant", "abd"),
    }
    assert len(others) == 5
    assert key not in others
