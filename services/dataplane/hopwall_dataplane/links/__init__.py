"""Interfaces of the host: `monitor` tells which there are, `sysctl` how workload interfaces are set.

`codec` turns rtnetlink bytes into links (pure).
"""
