"""A packet on its way through one host, and what a judge says when it does not understand."""

import struct
from dataclasses import dataclass, field, replace


class NotUnderstood(Exception):
    """The text says something the judge has not been taught, or the kernel would not take."""


@dataclass(slots=True)
class Packet:
    """A packet on its way, and what the host knows of it."""

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    state: str = "NEW"
    came_in: str = ""
    goes_out: str = ""
    mark: int = 0
    connection_mark: int = 0
    masqueraded: bool = False
    #: Of an ICMP error: the packet it is about, from its IP header on, as far as it is quoted.
    quote: bytes = b""
    #: The prefixes under which it was logged.
    logs: list[str] = field(default_factory=list)
    #: The lines it met that matched.
    trace: list[str] = field(default_factory=list)

    def quoted(self) -> bytes:
        """Return what a message of the host that gets this packet quotes of it: the addresses, at least."""
        return replace(self, quote=bytes(4)).head

    @property
    def head(self) -> bytes:
        """Its bytes from the IP header on: of ICMP with the quote, of others up to the ports."""
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        inner = struct.pack("!BB6x", self.icmp_type, self.icmp_code) + self.quote
        body = inner if self.protocol == {4: 1, 6: 58}[self.version] else ports
        size = {4: 4, 6: 16}[self.version]
        ends = self.source.to_bytes(size) + self.destination.to_bytes(size)
        if self.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(body), self.protocol, 64) + ends + body
        return (
            struct.pack("!BBHIBBH", 0x45, 0, 20 + len(body), 0, 64, self.protocol, 0) + ends + body
        )
