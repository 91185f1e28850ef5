from __future__ import annotations

from serve_app.ingress.delivery.queue_news import QueueNews


def told(looks: list[tuple[float, int | None]]) -> list[tuple[float, int | None]]:
    """The looks, as time and place, after which the client is told; silences are broken every 15 s."""
    news = QueueNews(15.0, 0.0)
    return [(now, news.place) for now, place in looks if news.due(place, now)]


def test_each_new_place_is_told_at_once() -> None:
    assert told([(1.0, 5), (2.0, 5), (3.0, 4), (4.0, 6)]) == [(1.0, 5), (3.0, 4), (4.0, 6)]


def test_a_silence_is_broken_in_time() -> None:
    assert told([(1.0, 5), (15.9, 5), (16.0, 5), (20.0, 5), (31.0, 5)]) == [(1.0, 5), (16.0, 5), (31.0, 5)]


def test_leaving_the_queue_is_no_news() -> None:
    assert told([(1.0, 0), (2.0, None), (16.0, None)]) == [(1.0, 0), (16.0, None)]


def test_a_place_that_comes_back_is_news() -> None:
    assert told([(1.0, 3), (2.0, None), (3.0, 3)]) == [(1.0, 3), (3.0, 3)]


def test_what_was_said_otherwise_counts() -> None:
    news = QueueNews(15.0, 0.0)
    news.told_at = 10.0
    assert not news.due(None, 24.0)
    assert news.due(None, 25.0)
