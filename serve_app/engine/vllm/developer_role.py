"""`developer` messages for models whose chat template does not know that role: they become `system`, as in vLLM.

The rules are those of `vllm.renderers.hf`: a template knows the role when it names it, and since many templates accept
a system message only at the beginning, all of them are then joined there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BETWEEN = "\n\n"


def knows_developer(chat_template: object) -> bool:
    """Whether a chat template, as a tokenizer holds it (a text, or several by name), names the role `developer`."""
    text = str(chat_template)
    return '"developer"' in text or "'developer'" in text


def as_system_messages(conversation: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`conversation` without the role `developer`. One that has none stays as it is."""
    if not any(message["role"] == "developer" for message in conversation):
        return list(conversation)
    system = [message for message in conversation if message["role"] in ("developer", "system")]
    others = [message for message in conversation if message["role"] not in ("developer", "system")]
    if len(system) == 1 and conversation[0] is system[0]:
        return [{**system[0], "role": "system"}, *others]
    text = _BETWEEN.join(message["content"] for message in system if message["content"])
    return [{"role": "system", "content": text}, *others]
