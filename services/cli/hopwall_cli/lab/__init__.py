"""Hosts and workloads as network namespaces on one machine, with the real services between them.

Light on purpose: the processes inside the namespaces import this package too. `Lab` is in `lab.lab`.
"""
