from __future__ import annotations

import pytest

from serve_app.core.errors import ModelNotFound
from serve_app.core.served_models import ServedModels, Target, one_pool_each


def test_several_names_stand_for_one_pool() -> None:
    served = ServedModels({"smol": ("Engine-smol",)}, {"smol": Target("smol"), "gpt-4o-mini": Target("smol")})

    assert served.resolve("gpt-4o-mini").pool == served.resolve("smol").pool == "smol"


def test_an_unknown_name_is_told_which_names_there_are_and_is_cut() -> None:
    with pytest.raises(ModelNotFound, match="Served: a, b") as raised:
        one_pool_each("a", "b").resolve("x" * 100_000)
    assert raised.value.param == "model"
    assert len(raised.value.message) < 1000
