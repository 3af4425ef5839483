"""What a BGP daemon that is none of ours is asked to do in tests, whoever made it."""

import contextlib
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tests.support.bird_hosts import BirdHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One session as the peer sees it.

    Shape: `port_here` is where it listens, `port_there` where we do; `passive` leaves it to us to dial. `far`: its
           address is not on the link.
    Units: `hops` for TTL security, 0 is off; `restart_s` for graceful restart, 0 is to help others with theirs.
    """

    family: int
    here: str
    there: str
    local_as: int
    remote_as: int
    password: str = ""
    hops: int = 0
    restart_s: int = 30
    bfd: bool = False
    port_here: int = 179
    port_there: int = 179
    passive: bool = False
    far: bool = False
    #: We are a client of the peer's, which reflects with this cluster ID.
    cluster_id: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A route that a peer announces; without a next hop by the peer itself."""

    network: str
    next_hop: str = ""
    communities: tuple[str, ...] = ()
    #: Behind its own number.
    as_path: tuple[int, ...] = ()

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.network else 4


@dataclass(frozen=True, slots=True)
class Learnt:
    """A route that a peer was told."""

    next_hop: str
    communities: frozenset[str] = frozenset()
    as_path: tuple[int, ...] = ()


@dataclass(slots=True)
class Peer(ABC):
    """A daemon in a host's namespace.

    Shape: `cannot` says what the daemon has no means for, and why; whoever relies on it checks it.
    """

    host: BirdHost
    links: tuple[Link, ...] = ()
    said: dict[str, Said] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    kind: ClassVar[str]
    title: ClassVar[str]
    cannot: ClassVar[dict[str, str]] = {}
    #: How many routes it can be told at once, where that is less than a test wants.
    most: ClassVar[dict[int, int]] = {}
    #: It writes what it learnt into the kernel.
    in_kernel: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the daemon's version."""

    @abstractmethod
    def launch(self) -> None:
        """Start the daemon with its sessions and all that was said; also after a crash."""

    @abstractmethod
    def tell(self, added: Sequence[Said], gone: Sequence[Said]) -> None:
        """Make the running daemon announce these, and withdraw those."""

    @abstractmethod
    def learnt(self, family: int) -> dict[str, Learnt]:
        """Return what the daemon was told by its peers: network → route."""

    @abstractmethod
    def state(self, link: Link) -> str:
        """Return the session's state, "Established" when it is up."""

    def held(self, family: int) -> set[str]:
        """Return the networks learnt that the daemon forwards by: in the kernel, where it writes there."""
        return set(self.learnt(family))

    def offered(self, network: str) -> set[str]:
        """Return the next hops of all routes to a network that the daemon was told."""
        found = self.learnt(6 if ":" in network else 4).get(network)
        return set() if found is None else {found.next_hop}

    # ---------------------------------------------------------------- the same for all

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.host.folder

    def start(self, *links: Link) -> None:
        """Start with these sessions."""
        self.links = links
        self.launch()

    def announce(self, *routes: Said) -> None:
        """Announce these."""
        self.said |= {one.network: one for one in routes}
        if self._processes:
            self.tell(routes, ())

    def withdraw(self, *networks: str) -> None:
        """Announce these no more."""
        self.tell((), [self.said.pop(network) for network in networks])

    def established(self, family: int) -> bool:
        """Tell whether the sessions of a family are up."""
        those = [link for link in self.links if link.family == family]
        return all(self.state(link) == "Established" for link in those)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """End the daemon in good order."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End everything; twice is harmless."""
        self.kill()

    def _end(self, how: signal.Signals) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
        for process in self._processes:
            process.wait(timeout=30)
        self._processes.clear()

    def spawn(self, argv: Sequence[str], env: dict[str, str] | None = None) -> None:
        """Run a program of the daemon's in the namespace."""
        with (self.folder / f"{self.kind}.log").open("ab") as log:
            run = self.host.ns.command(list(argv))
            self._processes.append(subprocess.Popen(run, stdout=log, stderr=log, env=env))

    def run(self, argv: Sequence[str], *, text: str | None = None, check: bool = True) -> str:
        """Run a command in the namespace and return what it prints."""
        return self.host.ns.run(list(argv), text=text, check=check)


def first_line(argv: Sequence[str]) -> str:
    """Return the first line a program prints of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0]


def of_family(routes: Iterable[Said], family: int) -> list[Said]:
    """Return the routes of a family."""
    return [one for one in routes if one.family == family]


def standard(communities: Iterable[str]) -> list[str]:
    """Return those of two numbers."""
    return [one for one in communities if one.count(":") == 1]


def large(communities: Iterable[str]) -> list[str]:
    """Return those of three numbers."""
    return [one for one in communities if one.count(":") == 2]
