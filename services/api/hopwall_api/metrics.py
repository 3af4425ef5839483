"""What the API counts, in a registry of its own."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hopwall_api.agent import Api

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics(Collector):
    """Requests as they are answered, and the state of the store when it is asked for."""

    def __init__(self, registry: CollectorRegistry, api: Api) -> None:
        self._api = api
        self._requests = Counter(
            "hopwall_api_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "hopwall_api_request_seconds",
            "Time from a request's head to its answer, waiting included.",
            ("method",),
            buckets=_BUCKETS,
            registry=registry,
        )
        registry.register(self)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. A method that is not of HTTP counts as "other"."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, read at this moment."""
        api = self._api
        resources = GaugeMetricFamily("hopwall_api_resources", "Resources held.", labels=("kind",))
        for kind, n in api.store.counts().items():
            resources.add_metric((kind,), n)
        yield resources
        yield GaugeMetricFamily(
            "hopwall_api_revision", "Revision that reads show.", value=api.store.revision
        )
        yield GaugeMetricFamily(
            "hopwall_api_hosts", "Hosts that have reported.", value=len(api.tracker.hosts)
        )
        yield GaugeMetricFamily(
            "hopwall_api_nats_connected", "1 if NATS is connected.", value=api.link.connected
        )
        yield GaugeMetricFamily("hopwall_api_watchers", "Open watches.", value=api.n_watchers)
        known = {"always": 1.0, "late": 0.0, "unknown": float("nan")}
        yield GaugeMetricFamily(
            "hopwall_api_nats_sync_always",
            "1 if NATS syncs before it acknowledges, 0 if not, NaN if that is not known.",
            value=known[api.syncs],
        )
        yield CounterMetricFamily(
            "hopwall_api_write_conflicts",
            "Writes planned again because another came first.",
            value=api.writer.n_conflicts,
        )
        yield CounterMetricFamily(
            "hopwall_api_rejected_messages",
            "Messages that could not be understood.",
            value=api.link.rejected_messages,
        )


_METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})
