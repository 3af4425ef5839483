"""iptables: desired chains and jumps → transactions → the kernel, and back.

`table`, `transaction`, `parse` and `plan` are pure; `quarantine` drives any apply; `driver` runs the
tools and `backend` chooses them.
"""
