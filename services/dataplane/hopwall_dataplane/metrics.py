"""What the agent counts, under names that users of Felix will recognise."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class Metrics:
    """One registry per agent, so that nothing is global."""

    def __init__(self) -> None:
        """Register everything."""
        self.registry = CollectorRegistry()
        self.apply_seconds = Histogram(
            "hopwall_int_dataplane_apply_time_seconds",
            "Time to bring the kernel to the desired state, per turn.",
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
        )
        self.turns = Counter(
            "hopwall_int_dataplane_turns", "Turns of the loop.", registry=self.registry
        )
        self.ops = Counter(
            "hopwall_int_dataplane_ops", "Kernel changes written.", registry=self.registry
        )
        self.failures = Counter(
            "hopwall_int_dataplane_failures",
            "Turns that could not apply everything.",
            registry=self.registry,
        )
        self.drift = Counter(
            "hopwall_drift_repaired", "Objects of ours that others changed.", registry=self.registry
        )
        self.doubts = Counter(
            "hopwall_doubts",
            "Readings of the kernel because others may have changed something.",
            registry=self.registry,
        )
        self.watch_seconds = Counter(
            "hopwall_watch_seconds",
            "Seconds of a core spent on looking at what has no events.",
            registry=self.registry,
        )
        self.flows_revoked = Counter(
            "hopwall_flows_revoked",
            "Established flows cut as policy denies them.",
            registry=self.registry,
        )
        self.flows_restored = Counter(
            "hopwall_flows_restored",
            "Cut flows that go on as policy allows them again.",
            registry=self.registry,
        )
        self.flows_deleted = Counter(
            "hopwall_flows_deleted",
            "Flows forgotten as their address left.",
            registry=self.registry,
        )
        self.flows_seen = Counter(
            "hopwall_flows_seen", "Tracked flows looked at.", registry=self.registry
        )
        self.walk_seconds = Histogram(
            "hopwall_flows_walk_seconds",
            "Work of one walk over the tracked flows.",
            registry=self.registry,
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 5),
        )
