from __future__ import annotations

import pytest

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Sampling
from serve_app.engine.vllm.sampling import invalid_request, sampling_arguments


class _ValidationError(ValueError):
    def __init__(self, message: str, parameter: str | None) -> None:
        super().__init__(message)
        self.parameter = parameter


def test_every_field_has_its_vllm_namesake() -> None:
    arguments = sampling_arguments(Sampling(), 10, 100)
    assert arguments.keys() == set(Sampling.__dataclass_fields__)


def test_values_are_passed_on_and_the_limit_replaces_max_tokens() -> None:
    sampling = Sampling(max_tokens=None, temperature=0.5, stop=("a", "b"), stop_token_ids=(7,), n=2, logprobs=3, seed=9)
    arguments = sampling_arguments(sampling, 10, 100)
    assert arguments["max_tokens"] == 10
    assert arguments["stop"] == ["a", "b"]
    assert arguments["stop_token_ids"] == [7]
    assert (arguments["temperature"], arguments["n"], arguments["logprobs"], arguments["seed"]) == (0.5, 2, 3, 9)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sampling_arguments(Sampling(seed=seed), 10, 100)
    assert raised.value.param == "seed"


@pytest.mark.parametrize("token", [-1, 100])
def test_stop_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sampling_arguments(Sampling(stop_token_ids=(token,)), 10, 100)
    assert raised.value.param == "stop_token_ids"


def test_refusal_takes_the_parameter_that_vllm_names() -> None:
    refusal = invalid_request(_ValidationError("Requested sample logprobs of 99.", "logprobs"))
    assert (refusal.message, refusal.param) == ("Requested sample logprobs of 99.", "logprobs")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("top_p must be in (0, 1], got 7.", "top_p"),
        ("stop cannot contain an empty string.", "stop"),
        ("Token id 7 is out of vocabulary", "prompt"),
        ("Oh no", None),
    ],
)
def test_refusal_without_a_parameter_takes_the_field_that_its_message_begins_with(
    message: str, param: str | None
) -> None:
    assert invalid_request(_ValidationError(message, None)).param == param
    assert invalid_request(ValueError(message)).param == param
