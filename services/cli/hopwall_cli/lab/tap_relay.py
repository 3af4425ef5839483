"""A cable between two TAP devices: one in the host's namespace, one named eth0 in the workload's.

`python -m hopwall_cli.lab.tap_relay HOST_NAMESPACE TAP WORKLOAD_NAMESPACE MAC` creates both devices, says
`ready`, and carries frames until it is ended; then the kernel removes both, as when a VM dies.
Source: kernel documentation, networking/tuntap.
"""

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import struct
import sys
from pathlib import Path

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_SIOCSIFHWADDR = 0x8924  # linux/sockios.h
_ARPHRD_ETHER = 1
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_FRAME = 65536


def enter(namespace: str) -> None:
    """Move this thread into a named network namespace.

    Errors: OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"entering namespace {namespace}: {os.strerror(code)}")


def open_tap(namespace: str, name: str, mac: str = "") -> int:
    """Create a TAP device in a namespace and return the descriptor that keeps it alive."""
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    if mac:
        address = bytes.fromhex(mac.replace(":", ""))
        hardware = struct.pack("16sH6s16x", name.encode(), _ARPHRD_ETHER, address)
        fcntl.ioctl(device, _SIOCSIFHWADDR, hardware)
    return device


def carry(one: int, other: int) -> None:
    """Carry frames both ways until a device is gone."""
    selector = selectors.DefaultSelector()
    selector.register(one, selectors.EVENT_READ, other)
    selector.register(other, selectors.EVENT_READ, one)
    while True:
        for key, _ in selector.select():
            # A full queue or a device that is down loses the frame, as a cable would.
            with contextlib.suppress(BlockingIOError):
                frame = os.read(key.fd, _FRAME)
                with contextlib.suppress(OSError):
                    os.write(key.data, frame)


def main() -> int:
    """Create both devices and carry frames."""
    host, tap, workload, mac = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    there = open_tap(host, tap)
    here = open_tap(workload, "eth0", mac)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        carry(there, here)
    except OSError as error:
        sys.stderr.write(f"the cable of {tap} ended: {error.strerror}.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
