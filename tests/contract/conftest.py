"""Makes assertions of the shared suite explain themselves."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.contract.engine_contract", "tests.contract.continuation_contract", "tests.support.generations"
)
