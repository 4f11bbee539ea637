"""Metrics in the text formats of Prometheus and OpenMetrics, by the library prometheus-client.

Every scrape reads what the store has counted, and has objects of its own. This process keeps the latency of
the store, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from noetl.api.service.store_latency import LATENCY_BUCKET_SECONDS, Latency, StoreLatency
from noetl.executor.model.metrics import BUCKET_SECONDS, FactKind, FactTotal, StoreMetrics
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from prometheus_client import Metric

PROMETHEUS_TYPE = "text/plain"
OPENMETRICS_TYPE = "application/openmetrics-text"

CONTENT_TYPES = {
    PROMETHEUS_TYPE: "text/plain; version=0.0.4; charset=utf-8",
    OPENMETRICS_TYPE: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
"""The header `Content-Type` of each media type. A client that accepts any receives the first."""

COUNTERS: Mapping[FactKind, tuple[str, str]] = {
    FactKind.START: ("noetl_runs_started", "Runs that were started."),
    FactKind.RUN: ("noetl_runs_ended", "Ends of runs. A run that is resumed ends again."),
    FactKind.STEP: ("noetl_steps_ended", "Visits of steps that have succeeded or failed."),
    FactKind.RETRY: ("noetl_step_retries", "Attempts that have failed and are followed by another."),
    FactKind.CACHED: ("noetl_actions_cached", "Actions and steps whose result was taken from the cache."),
    FactKind.NOTIFICATION: ("noetl_notifications", "Attempts at notifications, by their outcome."),
    FactKind.FIRING: ("noetl_trigger_firings", "Recorded firings of triggers, by their outcome."),
    FactKind.LOST_LEASE: ("noetl_lost_leases", "Visits that another worker took over from a lost one."),
}
"""The name and the meaning of the counter of each kind of facts."""

DURATIONS: Mapping[FactKind, tuple[str, str]] = {
    FactKind.RUN: ("noetl_run_duration_seconds", "Time from the first claim of a run to its end."),
    FactKind.STEP: ("noetl_step_duration_seconds", "Time of the last attempt of a step, with its waits."),
}

STATUS_LABELS: Mapping[FactKind, str] = {
    **dict.fromkeys((*DURATIONS, FactKind.NOTIFICATION), "status"),
    FactKind.FIRING: "outcome",
}
"""The label for the status of a kind. The other kinds have none."""

LATENCY = ("noetl_store_operation_seconds", "Operations of the store for requests of this process.")


@frozen
class Scrape:
    """The contents of one scrape. `metrics` is None if the store counts nothing. Its time is `now`.

    With `has_playbooks`, the series of runs have the label `playbook`.
    """

    metrics: StoreMetrics | None
    now: float
    has_playbooks: bool

    def text(self, latency: StoreLatency, media_type: str) -> bytes:
        """Return the metrics in the format of a media type."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.openmetrics import exposition as openmetrics
        from prometheus_client.registry import Collector

        scrape = self

        class ScrapeCollector(Collector):
            """The metrics of this scrape."""

            def collect(self) -> Iterable[Metric]:
                yield from scrape.families()
                yield _latency_family(latency.process, latency.read())

        registry = CollectorRegistry(auto_describe=False)
        registry.register(ScrapeCollector())
        if media_type == OPENMETRICS_TYPE:
            text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return text
        return generate_latest(registry)

    def families(self) -> Iterator[Metric]:
        """Yield the metrics that the store has counted."""
        from prometheus_client.core import GaugeMetricFamily

        metrics = self.metrics
        if metrics is None:
            return
        kinds: defaultdict[FactKind, list[FactTotal]] = defaultdict(list)
        for total in metrics.totals:
            kinds[total.kind].append(total)
        for kind in COUNTERS:
            yield self._counter(kind, kinds[kind])
        for kind in DURATIONS:
            yield self._durations(kind, kinds[kind])
        age = 0.0 if metrics.oldest_due_at is None else max(self.now - metrics.oldest_due_at, 0.0)
        yield GaugeMetricFamily("noetl_open_runs", "Runs that have not ended.", metrics.open_runs)
        yield GaugeMetricFamily("noetl_queue_due", "Visits that are due, and wait for a worker.", metrics.due)
        yield GaugeMetricFamily(
            "noetl_queue_oldest_seconds", "How long the oldest of these visits is due.", age
        )
        if metrics.log_bytes is not None:
            help_text = "Length of the write-ahead log of SQLite."
            yield GaugeMetricFamily("noetl_store_log_bytes", help_text, metrics.log_bytes)

    def _counter(self, kind: FactKind, totals: Iterable[FactTotal]) -> Metric:
        from prometheus_client.core import CounterMetricFamily

        has_status = kind in STATUS_LABELS
        names = [
            *(["playbook"] if self.has_playbooks else []),
            *([STATUS_LABELS[kind]] if has_status else []),
        ]
        counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        if not self.has_playbooks and not has_status:
            counts[()] = 0  # a series without labels is there from the start
        for total in totals:
            known = (total.playbook, total.status)
            counts[known[not self.has_playbooks : 1 + has_status]] += total.count
        family = CounterMetricFamily(*COUNTERS[kind], labels=names)
        for labels, count in counts.items():
            family.add_metric(labels, count)
        return family

    def _durations(self, kind: FactKind, totals: Iterable[FactTotal]) -> Metric:
        """Return the histogram of a kind. Steps have one for all playbooks, so that a scrape stays short."""
        from prometheus_client.core import HistogramMetricFamily

        has_playbooks = self.has_playbooks and kind is FactKind.RUN
        series: defaultdict[tuple[str, ...], list[FactTotal]] = defaultdict(list)
        if not has_playbooks:
            series[()] = []
        for total in totals:
            series[(total.playbook,) if has_playbooks else ()].append(total)
        family = HistogramMetricFamily(*DURATIONS[kind], labels=["playbook"] if has_playbooks else [])
        for labels, timed in series.items():
            counts = [0] * (len(BUCKET_SECONDS) + 1)
            for total in timed:
                counts[total.bucket] += total.count
            buckets = _buckets(BUCKET_SECONDS, counts)
            family.add_metric(labels, buckets, sum(total.seconds for total in timed))
        return family


def _latency_family(process: str, latencies: Mapping[str, Latency]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(*LATENCY, labels=["process", "part"])
    for part, latency in latencies.items():
        buckets = _buckets(LATENCY_BUCKET_SECONDS, latency.counts)
        family.add_metric([process, part], buckets, latency.seconds)
    return family


def _buckets(bounds: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Return the cumulative buckets of a histogram, by their upper bounds.

    >>> _buckets((0.5,), [2, 1])
    [('0.5', 2), ('+Inf', 3)]
    """
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
