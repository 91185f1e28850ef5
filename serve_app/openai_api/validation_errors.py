"""One pydantic validation error in OpenAI's words: the field's path, what is wrong with it, and a code."""

from __future__ import annotations

from pydantic import ValidationError

from serve_app.core.cut_text import cut
from serve_app.core.error_codes import ErrorCode, is_error_code
from serve_app.core.errors import InvalidRequest


def first_error(error: ValidationError) -> InvalidRequest:
    """The first error that pydantic found, without input values: prompts belong in no message and no log."""
    detail = error.errors(include_url=False, include_input=False)[0]
    # Steps in angle brackets name the branch of a union (see `Tag` in the schema), not a field of the client's JSON.
    steps = [cut(str(step)) for step in detail["loc"] if not str(step).startswith("<")]
    kind = detail["type"]
    if is_error_code(kind) and "param" in detail.get("ctx", {}):
        steps.append(cut(detail["ctx"]["param"]))
    path = ".".join(steps)
    if kind == "missing":
        return InvalidRequest(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    if kind == "unknown_parameter":
        return InvalidRequest(f"Unknown parameter: '{path}'.", path, "unknown_parameter")
    message = "Input should be an object" if kind == "model_type" else detail["msg"]
    reason = message[:1].lower() + message[1:]
    return InvalidRequest(f"Invalid value for '{path}': {reason}.", path, _code(kind))


def _code(kind: str) -> ErrorCode:
    if is_error_code(kind):
        return kind
    return "invalid_type" if kind.endswith("_type") else "invalid_value"
