from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serve_app.openai_api.json_text import json_string


@given(st.text())
def test_a_json_string_decodes_to_the_same_text(text: str) -> None:
    assert json.loads(json_string(text)) == text


@given(st.text(alphabet="a\n\r\x0b\x0c\x1c\x85\u2028\u2029é"))
def test_a_json_string_holds_nothing_that_breaks_a_line(text: str) -> None:
    assert len(json_string(text).decode().splitlines()) == 1


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert json_string("a\ud800é") == '"a\ufffdé"'.encode()
