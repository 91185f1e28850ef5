"""When a peer counts as silent."""

from __future__ import annotations

from serve_app.token_channel.liveness import SilenceDetector


def sweeps(detector: SilenceDetector, start: float, end: float, step: float = 0.25) -> list[tuple[float, str]]:
    """Sweep from `start` until `end`, and return what was reported when."""
    reported = []
    now = start
    while now <= end:
        reported += [(now, peer) for peer in detector.sweep(now)]
        now += step
    return reported


def test_a_peer_is_reported_once_after_the_timeout() -> None:
    detector = SilenceDetector(3.0)
    detector.heard("a", 0.0)

    assert sweeps(detector, 0.0, 20.0) == [(3.0, "a")]


def test_a_peer_that_speaks_is_not_reported() -> None:
    detector = SilenceDetector(3.0)
    for second in range(10):
        detector.heard("a", second)
        assert sweeps(detector, second, second + 0.75) == []


def test_a_peer_that_speaks_again_is_reported_again() -> None:
    detector = SilenceDetector(3.0)
    detector.heard("a", 0.0)
    assert sweeps(detector, 0.0, 5.0) == [(3.0, "a")]
    assert not detector.watches("a")

    detector.heard("a", 5.0)

    assert detector.watches("a")
    assert sweeps(detector, 5.0, 10.0) == [(8.0, "a")]


def test_a_forgotten_peer_is_not_reported() -> None:
    detector = SilenceDetector(3.0)
    detector.heard("a", 0.0)
    detector.forget("a")
    detector.forget("never heard")

    assert sweeps(detector, 0.0, 10.0) == []


def test_time_in_which_nobody_looked_is_not_silence() -> None:
    detector = SilenceDetector(3.0)
    detector.heard("a", 0.0)
    assert sweeps(detector, 0.0, 1.0) == []

    assert detector.sweep(61.0) == []
    assert sweeps(detector, 61.25, 70.0) == [(63.0, "a")]
