"""The hopwall command: the operator, the one-host set-up, the lab and the demo."""
