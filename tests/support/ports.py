"""Ports for servers of tests."""

import itertools
import os
import socket

#: Below those that the kernel gives to whoever connects (ip_local_port_range), so that between the choice and the
#: server's start, or while a server is away for a moment, nobody is given one of them.
_FIRST, _END = 11_000, 31_000
#: Each process of tests begins elsewhere, and no process hands out a port twice before it has handed out all.
_begin = os.getpid() * 997 % (_END - _FIRST)
_ports = itertools.islice(itertools.cycle(range(_FIRST, _END)), _begin, None)


def free_port() -> int:
    """Return a TCP port of loopback that nothing uses now, and that no test of this process was given before."""
    for port in itertools.islice(_ports, _END - _FIRST):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port for tests is taken")
