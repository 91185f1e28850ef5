from __future__ import annotations

import random

import pytest

from serve_app.resilience.first_token_model import FirstTokenModel


def learned(cost, count: int = 200, seed: int = 1) -> FirstTokenModel:
    """A model that saw `count` first tokens that took `cost(tokens, rng)` seconds."""
    rng = random.Random(seed)
    model = FirstTokenModel()
    for _ in range(count):
        tokens = rng.randint(10, 5000)
        model.learn(tokens, cost(tokens, rng))
    return model


def test_nothing_is_told_before_enough_was_seen():
    model = learned(lambda tokens, rng: 1.0 + tokens, count=19)

    assert (model.seconds_per_token, model.expected_s(1000)) == (0.0, 0.0)
    model.learn(10, 11.0)
    assert model.expected_s(1000) > 0.0


def test_line_is_found_in_noise():
    model = learned(lambda tokens, rng: 0.2 + tokens * 0.0005 + rng.uniform(-0.1, 0.1))

    assert model.seconds_per_token == pytest.approx(0.0005, rel=0.15)
    assert model.expected_s(2000) == pytest.approx(1.2, rel=0.05)


def test_engine_whose_first_token_does_not_depend_on_what_waits_has_no_slope():
    model = learned(lambda tokens, rng: 0.5)

    assert model.seconds_per_token == pytest.approx(0.0, abs=1e-9)
    assert model.expected_s(100_000) == pytest.approx(0.5)


def test_slope_that_may_be_chance_is_none():
    slopes = [
        learned(lambda tokens, rng: 3.3 if rng.random() < 0.2 else 0.3, count=60, seed=seed).seconds_per_token
        for seed in range(200)
    ]

    assert sum(slope > 0.0 for slope in slopes) < 20


def test_first_tokens_that_come_sooner_the_more_waits_are_no_negative_slope():
    model = learned(lambda tokens, rng: 5.0 - tokens * 0.0005)

    assert model.seconds_per_token == 0.0
    assert model.expected_s(0) > 0.0


def test_equal_prompts_say_nothing_of_the_slope():
    model = FirstTokenModel()
    for _ in range(100):
        model.learn(700, 0.3)

    assert model.seconds_per_token == 0.0
    assert model.expected_s(700) == pytest.approx(0.3)


def test_old_speed_is_forgotten():
    model = learned(lambda tokens, rng: tokens * 0.001)
    rng = random.Random(2)
    for _ in range(500):
        tokens = rng.randint(10, 5000)
        model.learn(tokens, tokens * 0.0001)

    assert model.seconds_per_token == pytest.approx(0.0001, rel=0.4)
