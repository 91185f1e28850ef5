"""An answer that begins and never goes on."""

from __future__ import annotations

from serve_app.core.events import Accepted, TokenDelta
from tests.support.fake_router import Hang, Script

HANGING: Script = [[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]
"""Says one token and then nothing for ever."""
