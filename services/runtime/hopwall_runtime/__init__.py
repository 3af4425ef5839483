"""Runtime: what every process needs (config, logs, signals, the NATS link, health, metrics, clock)."""
