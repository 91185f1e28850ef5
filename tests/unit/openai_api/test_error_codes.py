"""The codes that programs read are documented, all of them, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.core.error_codes import ERROR_CODES
from serve_app.core.errors import InvalidRequest, ServeAppError

_DOCUMENT = Path(__file__).parents[3] / "docs" / "http_api.md"


def classes(root: type[ServeAppError]) -> list[type[ServeAppError]]:
    return [root, *(found for child in root.__subclasses__() for found in classes(child))]


def test_the_document_lists_every_code_and_no_other() -> None:
    section = _DOCUMENT.read_text().partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| ") and not row.startswith("| ---")]
    listed = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row[2])}
    assert listed - {"code"} == ERROR_CODES


def test_every_error_has_a_code_of_the_list() -> None:
    ours = [error for error in classes(ServeAppError) if error.__module__.startswith("serve_app.core")]
    assert {error.code for error in ours} <= ERROR_CODES


def test_a_wrong_request_has_a_code_that_openai_has() -> None:
    assert InvalidRequest("The prompt must not be empty.", "prompt").code == "invalid_value"
