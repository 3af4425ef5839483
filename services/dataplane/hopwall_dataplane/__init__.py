"""The dataplane service: one host's desired state made true in its kernel."""
