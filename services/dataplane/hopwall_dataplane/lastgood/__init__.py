"""The last complete state calc gave this host, kept on disk so that a boot without NATS is not one without rules.

mirror (pure fold) → codec (pure lines) → driver (one file) → keeper (the task that writes it).
"""
