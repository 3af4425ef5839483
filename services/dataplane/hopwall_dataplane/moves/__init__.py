"""Live migrations on this host: what a workload's arrival looks like, and which of its routes stand when."""
