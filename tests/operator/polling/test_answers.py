"""What pods told last is kept while they run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from alpaca_operator.api.contract import Progress
from alpaca_operator.outcomes.observed import Sample
from alpaca_operator.polling.answers import ScrapeCache
from alpaca_operator.polling.pods import parse

TOLD = b'{"stage":"Training","step":3,"totalSteps":10,"loss":2.5}'
LOG = b'Loading weights...\n{"stage":"Training","step":7,"totalSteps":10,"loss":1,"time":"2026-01-01T00:00:00Z"}\n'


class TestTheBoard:
    def test_tells_what_is_news(self) -> None:
        scrapes, now = ScrapeCache(), datetime.now(UTC)
        assert scrapes.put("a", "pod", parse(TOLD), now)
        assert not scrapes.put("a", "pod", parse(TOLD), now)
        assert scrapes.put("a", "pod", parse(LOG.splitlines()[1]), now)

    def test_tells_the_newest_pod_of_a_job(self) -> None:
        scrapes, now = ScrapeCache(), datetime.now(UTC)
        scrapes.put("a", "second", Progress(step=9), now)
        scrapes.put("a", "first", Progress(step=3), now - timedelta(seconds=5))
        assert scrapes.latest("a") == (Progress(step=9), now)

    def test_tells_the_speed_of_each_pod_of_a_deployment_since_its_last_look(self) -> None:
        scrapes, now = ScrapeCache(), datetime.now(UTC)
        assert scrapes.put("a", "pod", Sample(tokens=100), now)
        assert scrapes.put("a", "pod", Sample(tokens=250), now + timedelta(seconds=5))
        scrapes.put("a", "other", Sample(), now)
        speeds = [one.tokens_per_second for one, _ in scrapes.samples("a")]
        assert speeds == [30, 0]
        assert scrapes.latest("a") is None, "no steps are made"

    def test_a_pod_that_started_again_has_no_negative_speed(self) -> None:
        scrapes, now = ScrapeCache(), datetime.now(UTC)
        scrapes.put("a", "pod", Sample(tokens=100), now)
        scrapes.put("a", "pod", Sample(tokens=10), now + timedelta(seconds=5))
        assert [one.tokens_per_second for one, _ in scrapes.samples("a")] == [0]

    def test_forgets_pods_that_no_longer_run(self) -> None:
        scrapes = ScrapeCache()
        scrapes.put("a", "pod", parse(TOLD), datetime.now(UTC))
        scrapes.retain(set())
        assert scrapes.latest("a") is None
