from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import PayloadTooLarge
from serve_app.openai_api import json_bounds
from serve_app.openai_api.json_bounds import MAX_CONTAINERS, MAX_FIELDS, MAX_VALUES, SHORT_BYTES, check_values


def refused(body: bytes) -> bool:
    try:
        check_values(body + b" " * SHORT_BYTES)  # short ones are not counted
    except PayloadTooLarge:
        return True
    return False


@pytest.mark.parametrize(
    ("fitting", "unit"),
    [
        (MAX_VALUES, "1"),
        (MAX_VALUES, '"a,[{:"'),
        (MAX_CONTAINERS - 1, "[]"),
        (MAX_CONTAINERS - 1, "{}"),
    ],
)
def test_exactly_as_many_values_as_allowed_pass(fitting: int, unit: str) -> None:
    assert not refused(f"[{','.join([unit] * fitting)}]".encode())
    assert refused(f"[{','.join([unit] * (fitting + 1))}]".encode())


def test_fields_of_objects_are_bounded() -> None:
    fields = [f'"{number}":1' for number in range(MAX_FIELDS)]
    assert not refused(f"{{{','.join(fields)}}}".encode())
    assert refused(f'{{{",".join(fields)},"one more":1}}'.encode())


def test_what_a_text_holds_is_not_counted() -> None:
    text = json.dumps({"a": "[{,:\"\\'" * MAX_VALUES, "b": [1]})
    assert not refused(text.encode())
    assert refused(text.replace("[1]", f"[{'1,' * MAX_VALUES}1]").encode())


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a\\"[]{},:\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='\\",a', max_size=3), inner, max_size=4)
    ),
)


def _containers(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_containers(each) for each in value.values())
    return 1 + sum(_containers(each) for each in value) if isinstance(value, list) else 0


def _fields(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_fields(each) for each in value.values())
    return sum(_fields(each) for each in value) if isinstance(value, list) else 0


@given(_VALUES, st.integers(1, 9))
def test_the_count_is_exact_wherever_slices_are_cut(value: Any, slice_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_SLICE_BYTES", slice_bytes)
        outside = b"".join(json_bounds._outside_strings(json.dumps(value).encode()))
    assert outside.count(b"[") + outside.count(b"{") == _containers(value)
    assert outside.count(b":") == _fields(value)
