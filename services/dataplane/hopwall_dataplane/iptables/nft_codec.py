"""nf_tables bytes → what a table holds of ours, and deletions by handle.

For tables with a rule that `iptables-save` cannot print: it then prints nothing of the whole table, and
`iptables-restore` cannot find the line it is to delete. Pure. Of a rule only our comment is read.

Source: linux/netfilter/nf_tables.h, nf_tables_compat.h, linux/netfilter/xt_comment.h.
"""

import socket
import struct
from collections.abc import Iterable

from hopwall_dataplane.iptables.parse import hash_in_comment
from hopwall_dataplane.iptables.roots import Hook, Place
from hopwall_dataplane.iptables.table import FOREIGN, KernelLine, TableState, is_ours
from hopwall_dataplane.netlink.codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    attribute,
    attribute_table,
    attributes,
    message,
    string,
    text_of,
)
from hopwall_dataplane.outcome import Family

_NFT = 10 << 8
_NEWTABLE, _GETTABLE, _NEWCHAIN, _GETCHAIN, _GETRULE, _DELRULE = 0, 1, 3, 4, 7, 8
_BATCH_BEGIN, _BATCH_END = 16, 17
_TABLE_NAME, _TABLE_FLAGS, _DORMANT = 1, 2, 1
_CHAIN_TABLE, _CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 2, 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7
_EXPR_NAME, _EXPR_DATA = 1, 2
_MATCH_NAME, _MATCH_INFO = 1, 3
_UDATA_COMMENT = 0
_NFGENMSG = struct.Struct("=BBH")
_HANDLE = struct.Struct(">Q")
_BE32, _SIGNED_BE32 = struct.Struct(">I"), struct.Struct(">i")
_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


def _body(family: Family, *parts: bytes) -> bytes:
    return _NFGENMSG.pack(_AF[family], 0, 0) + b"".join(parts)


def chains_message(family: Family) -> bytes:
    """Build the question for the chains of all tables of a family."""
    return message(_NFT | _GETCHAIN, NLM_F_DUMP, _body(family))


def rules_message(family: Family, table: str, chain: str = "") -> bytes:
    """Build the question for the rules of a table, or of one chain of it, in their order."""
    parts = [string(_RULE_TABLE, table)]
    if chain:
        parts.append(string(_RULE_CHAIN, chain))
    return message(_NFT | _GETRULE, NLM_F_DUMP, _body(family, *parts))


def delete_message(family: Family, table: str, chain: str, handle: int) -> bytes:
    """Build the deletion of one rule."""
    parts = (
        string(_RULE_TABLE, table),
        string(_RULE_CHAIN, chain),
        attribute(_RULE_HANDLE, _HANDLE.pack(handle)),
    )
    return message(_NFT | _DELRULE, NLM_F_ACK, _body(family, *parts))


def table_message(family: Family, table: str) -> bytes:
    """Build the question for one table."""
    return message(_NFT | _GETTABLE, 0, _body(family, string(_TABLE_NAME, table)))


def is_asleep(answer: bytes) -> bool:
    """Tell from the answer to `table_message` whether no packet meets the table."""
    held = attribute_table(answer, _NFGENMSG.size, len(answer))
    flags = held.get(_TABLE_FLAGS, bytes(4))
    return bool(_BE32.unpack(flags)[0] & _DORMANT)


def wake_message(family: Family, table: str) -> bytes:
    """Build the request that lets packets meet a table again."""
    awake = attribute(_TABLE_FLAGS, _BE32.pack(0))
    return message(_NFT | _NEWTABLE, NLM_F_ACK, _body(family, string(_TABLE_NAME, table), awake))


def chain_message(family: Family, table: str, chain: str) -> bytes:
    """Build the question for one chain."""
    parts = string(_CHAIN_TABLE, table), string(_CHAIN_NAME, chain)
    return message(_NFT | _GETCHAIN, 0, _body(family, *parts))


def place_in(answer: bytes) -> Place:
    """Read the answer to `chain_message`."""
    held = attribute_table(answer, _NFGENMSG.size, len(answer))
    hook = None
    if _CHAIN_HOOK in held:
        inner = attribute_table(held[_CHAIN_HOOK], 0, len(held[_CHAIN_HOOK]))
        (number,) = _BE32.unpack(inner[_HOOK_NUMBER])
        (priority,) = _SIGNED_BE32.unpack(inner[_HOOK_PRIORITY])
        hook = Hook(text_of(held.get(_CHAIN_TYPE, b"")), number, priority)
    return Place(hook, _HANDLE.unpack(held[_CHAIN_HANDLE])[0])


def rename_message(family: Family, table: str, handle: int, name: str) -> bytes:
    """Build the request that gives a chain another name."""
    parts = (
        string(_CHAIN_TABLE, table),
        attribute(_CHAIN_HANDLE, _HANDLE.pack(handle)),
        string(_CHAIN_NAME, name),
    )
    return message(_NFT | _NEWCHAIN, NLM_F_ACK, _body(family, *parts))


def our_handles(rules: Iterable[bytes]) -> list[int]:
    """Return the handles of the lines of ours among a chain's rules."""
    found: list[int] = []
    for body in rules:
        held = attribute_table(body, _NFGENMSG.size, len(body))
        if hash_in_comment(_comment(held)):
            found += _HANDLE.unpack(held[_RULE_HANDLE])
    return found


def edge_messages() -> tuple[bytes, bytes]:
    """Build what a transaction has before and after its messages."""
    # res_id, in network order, names the subsystem that the transaction is for.
    edge = _NFGENMSG.pack(socket.AF_UNSPEC, 0, socket.htons(_NFT >> 8))
    return message(_BATCH_BEGIN, 0, edge), message(_BATCH_END, 0, edge)


def table_state(table: str, chains: Iterable[bytes], rules: Iterable[bytes]) -> TableState:
    """Read a table from the answers to the two questions.

    Cost: about 5 µs a rule.
    """
    ours: dict[str, list[str | None]] = {}
    kernel: dict[str, list[KernelLine]] = {}
    for body in chains:
        held = attribute_table(body, _NFGENMSG.size, len(body))
        name = text_of(held.get(_CHAIN_NAME, b""))
        if text_of(held.get(_CHAIN_TABLE, b"")) != table:
            continue
        if is_ours(name):
            ours[name] = []
        elif _CHAIN_HOOK in held:
            kernel[name] = []
    for body in rules:
        held = attribute_table(body, _NFGENMSG.size, len(body))
        chain = text_of(held.get(_RULE_CHAIN, b""))
        if chain in ours:
            ours[chain].append(hash_in_comment(_comment(held)))
        elif chain in kernel:
            line_hash = hash_in_comment(_comment(held))
            (handle,) = _HANDLE.unpack(held[_RULE_HANDLE])
            kernel[chain].append(KernelLine(line_hash, "", handle) if line_hash else FOREIGN)
    return TableState(
        {name: tuple(hashes) for name, hashes in ours.items()},
        {name: tuple(lines) for name, lines in kernel.items()},
    )


def handles_behind(rules: Iterable[bytes], guard: str) -> list[int] | None:
    """Return the handles of a chain's rules from its end up to the guard, which is known by its hash.

    None where the guard is not there, or a rule behind it is not ours.
    """
    found: list[int] = []
    for body in reversed([*rules]):
        held = attribute_table(body, _NFGENMSG.size, len(body))
        line_hash = hash_in_comment(_comment(held))
        found += _HANDLE.unpack(held[_RULE_HANDLE])
        if line_hash in (guard, None):
            return found if line_hash else None
    return None


def _comment(rule: dict[int, bytes]) -> str:
    """Return a rule's comment: the last match of that name, else what stands in its user data."""
    found = ""
    expressions = rule.get(_RULE_EXPRESSIONS, b"")
    for _, start, end in attributes(expressions, 0, len(expressions)):
        expression = attribute_table(expressions, start, end)
        if text_of(expression.get(_EXPR_NAME, b"")) == "match":
            data = expression.get(_EXPR_DATA, b"")
            match = attribute_table(data, 0, len(data))
            if text_of(match.get(_MATCH_NAME, b"")) == "comment":
                found = text_of(match.get(_MATCH_INFO, b""))
    return found or _comment_in_user_data(rule.get(_RULE_USERDATA, b""))


def _comment_in_user_data(data: bytes) -> str:
    at = 0
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == _UDATA_COMMENT:
            return text_of(data[at + 2 : at + 2 + size])
        at += 2 + size
    return ""
