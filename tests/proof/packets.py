"""A packet on its way through one host, and what a judge says when it does not understand."""

from dataclasses import dataclass, field


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
    #: The prefixes under which it was logged.
    logs: list[str] = field(default_factory=list)
    #: The lines it met that matched.
    trace: list[str] = field(default_factory=list)
