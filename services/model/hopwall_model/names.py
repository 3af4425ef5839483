"""The names our kernel objects bear: how a process without memory recognises what is ours.

No user text is ever part of a name: what varies is a hash, in letters that every kernel tool takes.
A hash of 80 bits: who can choose two names alike harms only himself, and nobody can meet another's.

Source: linux/netfilter/x_tables.h (XT_EXTENSION_MAXNAMELEN 29), linux/netfilter/ipset/ip_set.h
        (IPSET_MAXNAMELEN 32), linux/if.h (IFNAMSIZ 16); each counts the NUL.
"""

import base64
import hashlib
import re
from typing import Literal, NewType

ChainName = NewType("ChainName", str)
SetName = NewType("SetName", str)
Ifname = NewType("Ifname", str)

MAX_CHAIN_NAME = 28
MAX_SET_NAME = 31
MAX_IFNAME = 15

#: Every chain, set and rule comment of ours starts with one of these, and nothing else does.
CHAIN_PREFIX = "hw-"
SET_PREFIX_V4 = "hw4-"
SET_PREFIX_V6 = "hw6-"
COMMENT_PREFIX = "hw:"
#: A set that is being filled beside the one it will be swapped with.
TEMPORARY_SUFFIX = "-t"

_HASH_CHARS = 16
_KIND = re.compile(r"[a-z0-9]{1,8}")
_IFNAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_SET_PREFIXES = {"v4": SET_PREFIX_V4, "v6": SET_PREFIX_V6}
_SET_KINDS = {"net": "s", "port": "p"}


def digest(text: str, n: int) -> str:
    """Return the first `n` characters (at most 52) of the text's SHA-256 in lower-case base32."""
    raw = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    # Five bytes are eight characters: no more is written than is asked for.
    return base64.b32encode(raw[: -(-n // 8) * 5]).decode().rstrip("=").lower()[:n]


def chain_name(kind: str, *parts: str) -> ChainName:
    """Return `hw-<kind>-<hash of the parts>`, at most 28 bytes.

    Errors: `ValueError` when `kind` is not one to eight lower-case letters or digits.
    """
    if not _KIND.fullmatch(kind):
        raise ValueError(f"Chain kind {kind!r} is not one to eight lower-case letters or digits.")
    # Each part with its length: ("a", "bc") and ("ab", "c") are different names.
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return ChainName(f"{CHAIN_PREFIX}{kind}-{digest(joined, _HASH_CHARS)}")


def set_name(
    family: Literal["v4", "v6"], set_id: str, kind: Literal["net", "port"] = "net"
) -> SetName:
    """Return the kernel name of one family's half of a set, with room for `TEMPORARY_SUFFIX`.

    The kind is part of the name, as the kernel cannot make one set into another kind while lines name it.
    """
    return SetName(f"{_SET_PREFIXES[family]}{_SET_KINDS[kind]}-{digest(set_id, _HASH_CHARS)}")


def temporary_name(name: SetName) -> SetName:
    """Return the name under which a set is filled before it is swapped in."""
    return SetName(name + TEMPORARY_SUFFIX)


def valid_ifname(text: str) -> bool:
    """Tell whether the text can name an interface and is safe in every tool.

    No "+", which iptables reads as a wildcard, and no leading "-", which tools read as an option.
    """
    return bool(_IFNAME.fullmatch(text)) and text not in (".", "..") and text[0] != "-"
