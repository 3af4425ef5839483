"""Reading one line of a table: its matches and its target, as functions of a packet.

What iptables would refuse is refused here too: an option without its match, ports without their protocol,
a negation of nothing. What it would take and we have not been taught is `NotUnderstood`.

Source: iptables(8), iptables-extensions(8).
"""

import ipaddress
import re
import shlex
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from tests.proof.kernel_sets import WITH_PORTS, Sets, protocol_number, value_and_mask
from tests.proof.packets import NotUnderstood, Packet
from tests.support import bpf

MULTIPORT_SLOTS = 15
_ICMPV6 = 58
ANY_ICMP_TYPE = 255
#: iptables-extensions(8), u32: four bytes from the sixth, of which the last is the protocol's.
_PROTOCOL_BYTE = re.compile(r"(?:0x)?6&0xff=0x([0-9a-f]+)", re.IGNORECASE)
#: Our comment at the end of a line.
_COMMENT = re.compile(r' -m comment --comment "[^"\\]*"$')
#: What a shell takes as it is, and double quotes.
_PLAIN = re.compile(r"[ -&(-\[\]-~]*")
HEADERS = {"hop-by-hop": 0, "ipv6-route": 43, "ipv6-frag": 44, "ah": 51, "ipv6-opts": 60}

Match = Callable[[Packet, Sets], bool]


class Line(NamedTuple):
    """One line: all matches must hold; then its target is done."""

    matches: tuple[Match, ...]
    target: "Target"
    sets: tuple[tuple[str, int], ...]
    text: str


class Target(NamedTuple):
    """What a line does: `verb` is a verdict in capitals, return, jump, goto, or go on; first comes `do`.

    Shape: `tables` are those it may stand in; () is all.
    """

    verb: str
    chain: str = ""
    is_log: bool = False
    do: Callable[[Packet, Sets], None] | None = None
    tables: tuple[str, ...] = ()


@cache
def compiled(body: str, version: int) -> Line:
    """Read the body of a line.

    Errors: NotUnderstood.
    """
    # Lines of many chains differ by their comments alone.
    bare = _COMMENT.sub("", body)
    return _read(bare, version)._replace(text=body)


@cache
def _read(body: str, version: int) -> Line:
    return _Reader(body, version).line()


def forget() -> None:
    """Forget the lines that were read."""
    compiled.cache_clear()
    _read.cache_clear()


def _words(body: str) -> list[str]:
    """Split a line as a shell does. Most have nothing that needs a shell's care, but words in double quotes."""
    parts = body.split('"')
    outside = parts[::2]
    apart = all(part.endswith(" ") for part in outside[:-1]) and all(
        not part or part.startswith(" ") for part in outside[1:]
    )
    if len(parts) % 2 == 0 or not apart or not _PLAIN.fullmatch(body):
        return shlex.split(body)
    words = outside[0].split()
    for quoted, part in zip(parts[1::2], outside[1:], strict=True):
        words += [quoted, *part.split()]
    return words


class _Reader:
    """One pass over the words of a line."""

    def __init__(self, body: str, version: int) -> None:
        self.text = body
        self.version = version
        self.words = _words(body)
        self.modules: set[str] = set()
        self.module = ""
        self.seen: set[str] = set()
        self.protocol: int | None = None
        self.negated = False
        self.matches: list[Match] = []
        self.sets: list[tuple[str, int]] = []

    def error(self, what: str) -> NotUnderstood:
        return NotUnderstood(f"{what} in: {self.text}")

    def take(self) -> str:
        if not self.words:
            raise self.error("a word is missing")
        return self.words.pop(0)

    def line(self) -> Line:
        target = Target("go on")
        while self.words:
            word = self.take()
            if word == "!":
                self.negated = not self.negated
            elif word in ("-j", "-g"):
                target = self.target(self.take(), "jump" if word == "-j" else "goto")
                break
            else:
                self.option(word)
        self.trailing_comment()
        if "limit" in self.modules and not target.is_log and self.protocol != _ICMPV6:
            raise self.error("a limit on more than a log, or than neighbour discovery")
        if self.negated:
            raise self.error("a ! that negates nothing")
        return Line(tuple(self.matches), target, tuple(self.sets), self.text)

    def trailing_comment(self) -> None:
        if self.words[:3] == ["-m", "comment", "--comment"]:
            del self.words[:4]
        if self.words:
            raise self.error(f"{self.words[0]!r} is not known here")

    def option(self, word: str) -> None:
        if word == "-m":
            name = self.take()
            if name not in _MODULES:
                raise self.error(f"match {name!r} is not known")
            self.modules.add(name)
            self.module = name
            if name in ("tcp", "udp", "sctp", "icmp", "icmp6"):
                self.need_protocol(name)
            return
        module, reader = _OPTIONS.get(word, ("", None))
        if reader is None or (module and module not in self.modules):
            raise self.error(f"option {word!r} is not known")
        if word in ("-s", "-d", "-p", "-i", "-o") and word in self.seen:
            raise self.error(f"{word} is given twice")
        self.seen.add(word)
        match, negated = reader(self), self.negated
        self.negated = False
        self.matches.append(_not(match) if negated else match)

    def need_protocol(self, module: str) -> None:
        wanted = {"icmp": 1, "icmp6": 58}.get(module) or protocol_number(module)
        if self.protocol != wanted:
            raise self.error(f"match {module} without its protocol")

    def target(self, name: str, verb: str) -> Target:
        if verb == "goto":
            return Target("goto", name)
        if name in ("ACCEPT", "DROP"):
            return Target(name)
        if name == "RETURN":
            return Target("return")
        if name in _TARGETS:
            return _TARGETS[name](self)
        if name.isupper():
            raise self.error(f"target {name} is not known")
        return Target("jump", name)

    def options(self, *names: str) -> dict[str, str]:
        """Read the options of a target: those named take a value, what begins with = takes none."""
        found: dict[str, str] = {}
        while self.words and self.words[:2] != ["-m", "comment"]:
            word = self.take()
            if word in names:
                found[word] = self.take()
            elif f"={word}" in names:
                found[word] = ""
            else:
                raise self.error(f"{word!r} is not known to the target")
        return found


def _not(match: Match) -> Match:
    return lambda packet, sets: not match(packet, sets)


# ---------------------------------------------------------------- matches


def _address(reader: _Reader, side: str) -> Match:
    net = ipaddress.ip_network(reader.take())
    if net.version != reader.version:
        raise reader.error("an address of the other family")
    first, last = int(net[0]), int(net[-1])
    if side == "source":
        return lambda packet, sets: first <= packet.source <= last
    return lambda packet, sets: first <= packet.destination <= last


def _range(reader: _Reader, side: str) -> Match:
    ends = [ipaddress.ip_address(text) for text in reader.take().split("-")]
    if len(ends) != 2 or any(end.version != reader.version for end in ends):
        raise reader.error("a range that is none of this family")
    first, last = (int(end) for end in ends)
    if side == "source":
        return lambda packet, sets: first <= packet.source <= last
    return lambda packet, sets: first <= packet.destination <= last


def _protocol(reader: _Reader) -> Match:
    wanted = protocol_number(reader.take())
    if reader.negated and wanted == 0:
        raise reader.error("! -p 0, which would be no protocol at all,")
    reader.protocol = None if reader.negated else wanted
    if wanted == 0:  # to iptables 0 is every protocol
        return lambda packet, sets: True
    return lambda packet, sets: packet.protocol == wanted


def _interface(reader: _Reader, side: str) -> Match:
    name = reader.take()
    prefix = name.removesuffix("+")
    wild = prefix != name

    def match(packet: Packet, _sets: Sets) -> bool:
        given = packet.came_in if side == "in" else packet.goes_out
        return given.startswith(prefix) if wild else given == name

    return match


def _ports(reader: _Reader, sides: str) -> Match:
    if reader.protocol not in WITH_PORTS:
        raise reader.error("ports without a protocol that has them")
    ranges = []
    for part in reader.take().split(","):
        first, _, last = part.partition(":")
        ranges.append((int(first), int(last or first)))
    slots = sum(1 if first == last else 2 for first, last in ranges)
    if slots > MULTIPORT_SLOTS or any(first > last for first, last in ranges):
        raise reader.error("ports that multiport does not take")

    def match(packet: Packet, _sets: Sets) -> bool:
        given = [packet.source_port] if "s" in sides else []
        given += [packet.destination_port] if "d" in sides else []
        return any(first <= port <= last for port in given for first, last in ranges)

    return match


def _port(reader: _Reader, side: str) -> Match:
    if reader.module not in ("tcp", "udp", "sctp"):
        raise reader.error("a port of no match")
    first, colon, last = reader.take().partition(":")
    low, high = int(first or 0), int(last or 65535) if colon else int(first)
    if side == "source":
        return lambda packet, sets: low <= packet.source_port <= high
    return lambda packet, sets: low <= packet.destination_port <= high


def _icmp(reader: _Reader) -> Match:
    kind, _, code = reader.take().partition("/")
    if kind == "any" or int(kind) == ANY_ICMP_TYPE:
        return lambda packet, sets: True
    wanted_type, wanted_code = int(kind), int(code) if code else None

    def match(packet: Packet, _sets: Sets) -> bool:
        return packet.icmp_type == wanted_type and wanted_code in (None, packet.icmp_code)

    return match


def _state(reader: _Reader) -> Match:
    states = frozenset(reader.take().split(","))
    if not states <= {"NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "DNAT", "SNAT"}:
        raise reader.error("a state that is none")
    return lambda packet, sets: packet.state in states


def _mark(reader: _Reader) -> Match:
    value, mask = value_and_mask(reader.take())
    if reader.module == "mark":
        return lambda packet, sets: packet.mark & mask == value
    if reader.module == "connmark":
        return lambda packet, sets: packet.connection_mark & mask == value
    raise reader.error("--mark of no match")


def _set_sides(reader: _Reader) -> tuple[str, tuple[str, ...]]:
    name, sides = reader.take(), tuple(reader.take().split(","))
    if not sides or not set(sides) <= {"src", "dst"}:
        raise reader.error("sides that are none")
    reader.sets.append((name, len(sides)))
    return name, sides


def _in_set(reader: _Reader) -> Match:
    name, sides = _set_sides(reader)
    return lambda packet, sets: sets[name].find(packet, sides)[0]


def _bytes(reader: _Reader) -> Match:
    """Read what u32 looks at: only the byte of an IPv4 header that is the protocol."""
    found = _PROTOCOL_BYTE.fullmatch(reader.take())
    if found is None or reader.version != 4:
        raise reader.error("u32 at other than the protocol of IPv4")
    wanted = int(found[1], 16)
    return lambda packet, sets: packet.protocol == wanted


def _program(reader: _Reader) -> Match:
    """Read a program over the bytes of a packet; one that the kernel would not take is none."""
    text = reader.take()
    try:
        bpf.read(text)
    except ValueError as error:
        raise reader.error(str(error)) from error
    return lambda packet, sets: bool(bpf.run(text, packet.head))


def _headers(reader: _Reader) -> Match:
    """Read which headers must be carried; a packet here has none but its protocol's own."""
    named = reader.take().split(",")
    soft = reader.words[:1] == ["--soft"]
    if not soft or reader.version != 6 or not set(named) <= HEADERS.keys():
        raise reader.error("ipv6header of another kind")
    reader.take()
    wanted = frozenset(HEADERS[name] for name in named)
    return lambda packet, sets: packet.protocol in wanted


def _limit(reader: _Reader) -> Match:
    # What is under the limit; policy has none but on lines without a verdict, see `_TARGETS`.
    reader.take()
    return lambda packet, sets: True


def _comment(reader: _Reader) -> Match:
    reader.take()
    return lambda packet, sets: True


_MODULES = frozenset((
    "bpf", "comment", "connmark", "conntrack", "icmp", "icmp6", "iprange", "ipv6header",
    "u32", "limit", "mark", "multiport", "sctp", "set", "tcp", "udp",
))  # fmt: skip
_OPTIONS: dict[str, tuple[str, Callable[[_Reader], Match]]] = {
    "-s": ("", lambda r: _address(r, "source")),
    "-d": ("", lambda r: _address(r, "destination")),
    "-p": ("", _protocol),
    "-i": ("", lambda r: _interface(r, "in")),
    "-o": ("", lambda r: _interface(r, "out")),
    "--src-range": ("iprange", lambda r: _range(r, "source")),
    "--dst-range": ("iprange", lambda r: _range(r, "destination")),
    "--sports": ("multiport", lambda r: _ports(r, "s")),
    "--dports": ("multiport", lambda r: _ports(r, "d")),
    "--ports": ("multiport", lambda r: _ports(r, "sd")),
    "--sport": ("", lambda r: _port(r, "source")),
    "--dport": ("", lambda r: _port(r, "destination")),
    "--icmp-type": ("icmp", _icmp),
    "--icmpv6-type": ("icmp6", _icmp),
    "--ctstate": ("conntrack", _state),
    "--mark": ("", _mark),
    "--match-set": ("set", _in_set),
    "--u32": ("u32", _bytes),
    "--bytecode": ("bpf", _program),
    "--header": ("ipv6header", _headers),
    "--limit": ("limit", _limit),
    "--limit-burst": ("limit", _limit),
    "--comment": ("comment", _comment),
}


# ---------------------------------------------------------------- targets


def _to_set_bits(found: dict[str, str], word: str) -> tuple[int, int]:
    """Return which bits are cleared and which are then flipped."""
    given = found[word]
    if word == "--or-mark":
        return int(given, 0), int(given, 0)
    if word == "--and-mark":
        return ~int(given, 0) & 0xFFFFFFFF, 0
    value, mask = value_and_mask(given)
    return (mask, value) if word == "--set-xmark" else (mask | value, value)


def _marks(reader: _Reader) -> Target:
    found = reader.options("--set-xmark", "--set-mark", "--or-mark", "--and-mark")
    if len(found) != 1:
        raise reader.error("MARK takes one option")
    cleared, flipped = _to_set_bits(found, next(iter(found)))

    def do(packet: Packet, _sets: Sets) -> None:
        packet.mark = packet.mark & ~cleared ^ flipped

    return Target("go on", do=do)


def _connection_marks(reader: _Reader) -> Target:
    bits = ("--set-xmark", "--set-mark", "--or-mark", "--and-mark")
    found = reader.options(*bits, "=--save-mark", "=--restore-mark", "--nfmask", "--ctmask")
    packet_mask = int(found.pop("--nfmask", "0xffffffff"), 0)
    connection_mask = int(found.pop("--ctmask", "0xffffffff"), 0)
    if len(found) != 1:
        raise reader.error("CONNMARK takes one option")
    word = next(iter(found))
    cleared, flipped = _to_set_bits(found, word) if word in bits else (0, 0)

    def do(packet: Packet, _sets: Sets) -> None:
        if word == "--save-mark":
            kept = packet.connection_mark & ~connection_mask
            packet.connection_mark = kept ^ (packet.mark & packet_mask)
        elif word == "--restore-mark":
            kept = packet.mark & ~packet_mask
            packet.mark = kept ^ (packet.connection_mark & connection_mask)
        else:
            packet.connection_mark = packet.connection_mark & ~cleared ^ flipped

    return Target("go on", do=do)


def _maps(reader: _Reader) -> Target:
    if reader.take() != "--map-set":
        raise reader.error("SET only maps here")
    name, sides = _set_sides(reader)
    if list(reader.options("=--map-mark")) != ["--map-mark"]:
        raise reader.error("SET only maps the mark here")

    def do(packet: Packet, sets: Sets) -> None:
        found, mark = sets[name].find(packet, sides)
        if found and mark is not None:
            packet.mark = packet.mark & ~mark.mask ^ mark.value

    return Target("go on", do=do, tables=("mangle",))


def _logs(reader: _Reader) -> Target:
    found = reader.options("--nflog-group", "--nflog-prefix", "--nflog-size", "--nflog-threshold")
    prefix = found.get("--nflog-prefix", "")
    return Target("go on", do=lambda packet, sets: packet.logs.append(prefix), is_log=True)


def _untracks(reader: _Reader) -> Target:
    if "--notrack" not in reader.options("=--notrack"):
        raise reader.error("CT only with --notrack")

    def do(packet: Packet, _sets: Sets) -> None:
        packet.state = "UNTRACKED"

    return Target("go on", do=do, tables=("raw",))


def _translates(reader: _Reader, option: str) -> Target:
    given = int(ipaddress.ip_address(reader.options(option)[option]))

    def do(packet: Packet, _sets: Sets) -> None:
        if option == "--to-destination":
            packet.destination = given
        else:
            packet.source = given

    return Target("ACCEPT", do=do, tables=("nat",))


def _masquerades(reader: _Reader) -> Target:
    reader.options("=--random-fully", "=--random")

    def do(packet: Packet, _sets: Sets) -> None:
        packet.masqueraded = True

    return Target("ACCEPT", do=do, tables=("nat",))


_TARGETS: dict[str, Callable[[_Reader], Target]] = {
    "MARK": _marks,
    "CONNMARK": _connection_marks,
    "SET": _maps,
    "NFLOG": _logs,
    "CT": _untracks,
    "DNAT": lambda r: _translates(r, "--to-destination"),
    "SNAT": lambda r: _translates(r, "--to-source"),
    "MASQUERADE": _masquerades,
}
