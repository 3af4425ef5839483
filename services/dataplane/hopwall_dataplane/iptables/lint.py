"""The last look at a transaction before the tool sees it: every line is one of a known form.

Pure. It knows nothing of how a line was made, so a mistake there cannot hide here. It refuses what it does not
know, and what one line says twice or a policy never says: a value with a blank in it, however it came there,
would bring another match or target along. It cannot see one more match that such a line may have.

A new match or target in rendering has its form here, or its chain is closed.
Source: iptables(8), iptables-extensions(8), ip6tables(8).
"""

import re
from collections.abc import Iterable

from hopwall_dataplane.iptables.transaction import Transaction

_INT = r"[0-9]{1,10}"
_HEX = r"0x[0-9a-f]{1,8}"
_MARK = rf"{_HEX}(?:/{_HEX})?"
_CHAIN = r"hw-[A-Za-z0-9._-]{1,25}"
_SET = r"hw[46]-[a-z0-9-]{1,27}"
_ENDS = r"(?:src|dst)(?:,(?:src|dst))?"
_IP = r"[0-9a-f:.]{2,39}"
_NET = rf"{_IP}/[0-9]{{1,3}}"
_IFNAME = r"[A-Za-z0-9_.-]{1,15}\+?"
_PORT = rf"{_INT}(?::{_INT})?"
_PORTS = rf"{_PORT}(?:,{_PORT}){{0,14}}"
_STATES = r"(?:INVALID|RELATED,ESTABLISHED)"
_SAFE = r"[A-Za-z0-9_.:-]"

_INTERFACE = rf"(?:! )?-[io] {_IFNAME}"
_MATCHES = (
    rf"(?:! )?-[sd] {_NET}",
    r"(?:! )?-p (?:[0-9]{1,3}|tcp|udp|icmp|ipv6-icmp)",
    r"-m (?:tcp|udp)",
    rf"--[sd]port {_PORT}",
    rf"-m multiport (?:! )?--[sd]ports {_PORTS}",
    rf"-m icmp6? (?:! )?--icmp(?:v6)?-type {_INT}(?:/{_INT})?",
    rf"-m iprange (?:! )?--(?:src|dst)-range {_IP}-{_IP}",
    rf"-m set (?:! )?--match-set {_SET} {_ENDS}",
    rf"-m (?:conn)?mark (?:! )?--mark {_MARK}",
    rf"-m conntrack --ctstate {_STATES}",
    rf"-m limit --limit {_INT}/(?:second|minute|hour|day) --limit-burst {_INT}",
    r"-m ipv6header (?:! )?--header [a-z-]{2,12} --soft",
    r"-m u32 (?:! )?--u32 6&0xff=0x0",
    r'-m bpf --bytecode "[0-9]{1,2}(?:,[0-9]{1,3} [0-9]{1,3} [0-9]{1,3} [0-9]{1,10}){1,64}"',
    rf"-m connlimit --connlimit-above {_INT} --connlimit-mask (?:32|128) --connlimit-saddr",
)
_TARGETS = (
    r"-j (?:ACCEPT|DROP|RETURN)",
    rf"-[jg] {_CHAIN}",
    rf"-j MARK --set-xmark {_MARK}",
    rf"-j SET --map-set {_SET} {_ENDS} --map-mark",
    rf'-j NFLOG --nflog-group {_INT} --nflog-prefix "{_SAFE}{{1,63}}"',
    r"-j CT --notrack",
    rf"-j DNAT --to-destination {_IP}",
    rf"-j SNAT --to-source {_IP}",
    r"-j MASQUERADE --random-fully",
)
_END = rf"(?: (?:{'|'.join(_TARGETS)}))?" + rf' -m comment --comment "hw:{_SAFE}{{1,60}}"'
#: A policy's line asks for no interface.
_POLICY_RULE = rf"(?: (?:{'|'.join(_MATCHES)}))*{_END}"
_RULE = rf"(?: (?:{_INTERFACE}|{'|'.join(_MATCHES)}))*{_END}"
#: A line of ours as the tool printed it, which puts the comment where it likes: it is deleted by its text.
_PRINTED = rf'(?: (?:{_INTERFACE}|{"|".join((*_MATCHES, *_TARGETS))}|-m comment --comment "?hw:{_SAFE}{{1,60}}"?))+'
_BUILTIN = r"(?:PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING)"
_POLICY = r"hw-p[eim]-[a-z0-9]{1,20}"
_LINE = re.compile(
    rf"-A {_POLICY}{_POLICY_RULE}|-A (?!hw-p[eim]-){_CHAIN}{_RULE}"
    rf"|-I {_POLICY} 1{_POLICY_RULE}|-I (?!hw-p[eim]-){_CHAIN} 1{_RULE}"
    rf"|-I {_BUILTIN} [0-9]{{1,5}}{_RULE}|-A {_BUILTIN}{_RULE}|-D {_BUILTIN}{_PRINTED}"
    rf"|-X {_CHAIN}|:{_CHAIN} - \[0:0\]|\*(?:raw|mangle|nat|filter)|COMMIT",
    re.ASCII,
)
#: What a line says once at most.
_ONCE = (" -i ", " -o ", " -s ", " -d ", " -p ", " -m conntrack ", " -m u32 ", " -m ipv6header ")


def suspicious(tx: Transaction) -> dict[str, str]:
    """Return the chains of which a line is of no known form, each with the reason.

    Shape:  a line that is no chain's (which no text of others reaches) counts as the table's, by its name.
    Cost:   about 2 µs a line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(tx.text.split("\n")[:-1], 1):
        if _LINE.fullmatch(line) is None or not _says_once(line, _ONCE):
            owner = tx.chain_at_line(number) or tx.table
            found.setdefault(owner, f"line {number} of table {tx.table} is of no known form")
    return found


def _says_once(line: str, words: Iterable[str]) -> bool:
    return all(line.count(word) <= 1 for word in words)
