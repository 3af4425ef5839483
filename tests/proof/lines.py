"""The second judge: a packet walks the lines and sets that are fed to the kernel.

It reads the text of `iptables-restore` (or `iptables-save`) and of `ipset save` as the tools and the kernel
do, and nothing else: no policy, no class. A token it does not know, a match without what it needs, a chain or
set that is not there: `NotUnderstood`, never a guess.

Source: net/ipv4/netfilter/ip_tables.c (goto, return); the netfilter hooks of a forwarded packet.
"""

from dataclasses import dataclass, field

from tests.proof.kernel_sets import DIMENSIONS, HeldSet
from tests.proof.line_text import Line, compiled
from tests.proof.packets import NotUnderstood, Packet

#: nft takes no path of more chains than this.
MAX_DEPTH = 16


@dataclass
class Tables:
    """One family's tables and the sets they name."""

    version: int
    sets: dict[str, HeldSet]
    chains: dict[str, dict[str, list[Line]]] = field(default_factory=dict)
    policies: dict[tuple[str, str], str] = field(default_factory=dict)

    def read(self, text: str) -> None:
        """Take in the text of one or more tables.

        Errors: NotUnderstood, also where a line names a chain or set that is not there.
        """
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()
                chains = self.chains.setdefault(table, {})
            elif line.startswith(":"):
                name, policy = line[1:].split()[:2]
                chains[name] = []
                if policy != "-":
                    self.policies[table, name] = policy
            elif line.startswith("-A "):
                _, name, body = line.split(" ", 2)
                chains.setdefault(name, []).append(compiled(body, self.version))
            elif line.startswith("-I "):
                _, name, place, body = line.split(" ", 3)
                chains.setdefault(name, []).insert(int(place) - 1, compiled(body, self.version))
            elif line not in ("COMMIT", "") and not line.startswith("#"):
                raise NotUnderstood(line)
        self._check()

    def _check(self) -> None:
        """Refuse what the kernel would refuse: names of nothing."""
        for table, chains in self.chains.items():
            for line in (line for lines in chains.values() for line in lines):
                if line.target.chain and line.target.chain not in chains:
                    raise NotUnderstood(f"no chain for: {line.text}")
                if line.target.tables and table not in line.target.tables:
                    raise NotUnderstood(f"not in table {table}: {line.text}")
                for name, n_sides in line.sets:
                    held = self.sets.get(name)
                    if held is None or held.version != self.version:
                        raise NotUnderstood(f"no such set for IPv{self.version}: {line.text}")
                    if DIMENSIONS[held.type] != n_sides:
                        raise NotUnderstood(f"{held.type} has other dimensions: {line.text}")

    # ------------------------------------------------------------ walking

    def pass_hook(self, packet: Packet, *places: tuple[str, str]) -> bool:
        """Walk the kernel chains (table, name) in order; tell whether the packet came through all."""
        for table, name in places:
            chains = self.chains.get(table, {})
            if name not in chains:
                continue
            verdict = self._walk(chains, name, packet, 1) or self.policies.get(
                (table, name), "ACCEPT"
            )
            if verdict == "DROP":
                return False
        return True

    def _walk(
        self, chains: dict[str, list[Line]], name: str, packet: Packet, depth: int
    ) -> str | None:
        """Return the verdict, or None when the packet goes back to where the chain was called."""
        if depth > MAX_DEPTH:
            raise NotUnderstood(f"chain {name} is more than {MAX_DEPTH} chains deep")
        sets = self.sets
        for matches, target, _, text in chains[name]:
            for match in matches:
                if not match(packet, sets):
                    break
            else:
                packet.trace.append(f"{name}: {text}")
                if target.do is not None:
                    target.do(packet, sets)
                verb = target.verb
                if verb == "return":
                    return None
                if verb == "goto":
                    return self._walk(chains, target.chain, packet, depth + 1)
                verdict: str | None = verb
                if verb == "jump":
                    verdict = self._walk(chains, target.chain, packet, depth + 1)
                if verdict not in (None, "go on"):
                    return verdict
        return None
