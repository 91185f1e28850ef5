from __future__ import annotations

import pytest

from tests.unit.telemetry.counted import Counted


@pytest.fixture
def counted() -> Counted:
    return Counted()
