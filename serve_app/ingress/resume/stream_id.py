"""Names of resumable streams: unguessable keys inside, and authenticated ids that clients hold.

An id is the stream's key with a tag (HMAC, RFC 2104) over key and tenant, so that an id which was guessed, changed or
taken from another tenant is refused before anybody is asked for the stream. An event id adds the position, which needs
no protection: it only says how much of one's own stream to skip.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

from serve_app.core.errors import StreamNotFound

_KEY_BYTES = 16
_TAG_BYTES = 12
_KEY = re.compile(r"[0-9a-f]{32}")
_POSITION = re.compile(r"[0-9]{1,9}")
NAME = re.compile(r"[\x20-\x7e]{1,255}")
"""What a client may call a stream beforehand: an idempotency key."""


def new_key() -> str:
    """The key of a new stream: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(_KEY_BYTES)


def derived_key(signing_key: bytes, purpose: str, *parts: str) -> str:
    """The key of the stream that is named by `parts`, such as a tenant and the idempotency key that it chose.

    Nobody without the secret can compute it. `purpose` keeps kinds of names apart.
    """
    named = b"".join(len(part).to_bytes(8, "big") + part for part in _bytes(purpose, *parts))
    return hmac.digest(signing_key, named, hashlib.sha256)[:_KEY_BYTES].hex()


def named_key(signing_key: bytes, tenant: str, name: str) -> str:
    """The key of the stream to which a tenant gave this `NAME`."""
    return derived_key(signing_key, "idempotency", tenant, name)


def sign(signing_key: bytes, key: str, tenant: str) -> str:
    """The id under which `tenant` finds the stream `key`: 38 characters that are safe in URLs and headers.

    Raises `ValueError` when `key` is not 32 hexadecimal digits.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError("a stream's key is 32 lowercase hexadecimal digits")
    return _text(bytes.fromhex(key) + _tag(signing_key, key, tenant))


def verify(signing_key: bytes, token: str, tenant: str) -> str:
    """The key in `token`. Raises `StreamNotFound` unless `sign` made it with the same secret and tenant."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    key, tag = raw[:_KEY_BYTES].hex(), raw[_KEY_BYTES:]
    # Base64 may spell the same bytes in several ways: only the one that was given out counts.
    if not hmac.compare_digest(tag, _tag(signing_key, key, tenant)) or _text(raw) != token:
        raise StreamNotFound("There is no stream of this id: it is unknown, or no longer retained.")
    return key


def read_event_id(signing_key: bytes, event_id: str, tenant: str) -> tuple[str, int]:
    """Key and position in tokens of `<id>.<position>`, as events carry it. Raises `StreamNotFound`."""
    token, _, position = event_id.partition(".")
    key = verify(signing_key, token, tenant)
    if _POSITION.fullmatch(position) is None:
        raise StreamNotFound("This is no event id: it does not end with a position.")
    return key, int(position)


def _tag(signing_key: bytes, key: str, tenant: str) -> bytes:
    return hmac.digest(signing_key, b"".join(_bytes("stream id", key, tenant)), hashlib.sha256)[:_TAG_BYTES]


def _bytes(*parts: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogatepass") for part in parts]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
