"""Errors that are kept and raised to several readers: each raise has an object of its own."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.core.errors import InternalError, InvalidRequest, Refused, ServeAppError, fresh
from serve_app.token_channel.codec import MalformedMessage, UnsupportedVersion

_VALUES: dict[str, Any] = {
    "message": "It went wrong.",
    "param": "messages.0",
    "error_code": "odd",
    "retry_after_s": 7.5,
}
"""A value other than the default for each argument of any constructor."""


def _classes(root: type[ServeAppError]) -> Iterator[type[ServeAppError]]:
    if root.__module__.startswith("serve_app."):
        yield root
    for child in root.__subclasses__():
        yield from _classes(child)


def _made(kind: type[ServeAppError]) -> ServeAppError:
    """An error whose every argument is given; fails for an argument of which this test does not know."""
    if kind.__init__ is ServeAppError.__init__:
        return kind(_VALUES["message"])
    return kind(*(_VALUES[name] for name in list(inspect.signature(kind.__init__).parameters)[1:]))


def _told(error: ServeAppError) -> dict[str, Any]:
    """Everything that one may ask the error for."""
    inherited = set(dir(Exception))
    names = [name for name in dir(error) if not name.startswith("_") and name not in inherited]
    return {"args": error.args, "dict": error.__dict__, **{name: getattr(error, name) for name in names}}


@pytest.mark.parametrize("kind", sorted(set(_classes(ServeAppError)), key=str))
def test_a_fresh_error_says_the_same_and_knows_nothing_of_where_the_first_was_raised(kind: type[ServeAppError]) -> None:
    error = _made(kind)
    try:
        try:
            raise ValueError("inner")
        except ValueError as inner:
            raise error from inner
    except ServeAppError:
        pass

    copy = fresh(error)

    assert type(copy) is kind and copy is not error
    assert _told(copy) == _told(error) == _told(pickle.loads(pickle.dumps(error)))
    assert (copy.__traceback__, copy.__cause__, copy.__context__) == (None, None, None)


def test_the_tree_is_whole() -> None:
    kinds = set(_classes(ServeAppError))
    assert {InvalidRequest, Refused, InternalError, MalformedMessage, UnsupportedVersion} < kinds
    assert len(kinds) >= 27
