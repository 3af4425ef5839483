"""What calc measures. Names follow Calico's where it has the same thing."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.update_time = Histogram(
            "hopwall_calc_graph_update_time_seconds",
            "Seconds of one flush of the graph.",
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10),
            registry=self.registry,
        )
        self.events = Counter("hopwall_calc_events", "Events taken in.", registry=self.registry)
        self.messages = Counter(
            "hopwall_calc_output_messages",
            "Messages published.",
            ["kind"],
            registry=self.registry,
        )
        self.failures = Counter(
            "hopwall_calc_quarantined",
            "Resources or keys that could not be understood, and are closed.",
            registry=self.registry,
        )
        self.node_updates = Gauge(
            "hopwall_calc_node_updates",
            "How often each node was brought up to date, incrementally or by recomputing.",
            ["node", "how"],
            registry=self.registry,
        )
        self.cluster = {
            name: Gauge(f"hopwall_cluster_{name}", f"Number of {name}.", registry=self.registry)
            for name in (
                "workload_endpoints",
                "host_endpoints",
                "policies",
                "profiles",
                "hosts",
                "sets",
                "pools",
            )
        }
        self.revision = Gauge(
            "hopwall_calc_revision", "The last revision resolved.", registry=self.registry
        )
