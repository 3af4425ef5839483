"""Hostile inputs out of good ones, by plain chance from a number.

Three ways in: bytes that are broken anywhere, texts whose words are exchanged, and JSON whose values are
exchanged but which stays JSON, as what is broken early is refused early.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutate = Callable[[bytes, Random], bytes]

#: What tends to be understood otherwise than it was meant, or by somebody else.
WORDS = (
    "", " ", "\n", "\r\n", "\t", "\0", "'", '"', "\\", "/", "..", "~", "*", "+", ">", "%", "$(id)", ";", "#",
    "-j ACCEPT", "\n-A INPUT -j ACCEPT\n", "COMMIT\n", '" -j ACCEPT "', "}\nprotocol x {", "hw:", "hw4-from",
    "eth0 -j ACCEPT", "tap+", "lo", "0", "-1", "65536", "4294967296", "1e309", "NaN", "0x10", "08", "1:2:3",
    "0.0.0.0/0", "::/0", "10.65.0.1/33", "10.65.0.1/-1", "010.0.0.1", "1.2.3", "::ffff:1.2.3.4", "fe80::1%eth0",
    "224.0.0.1", "255.255.255.255", "\u0130", "\u2028", "\U0001f600", "e\u0301", "\ud800", "a" * 300, "all()",
    "has(a)", "a == 'b'", "!!", "((((", "a in {", "global()", "==", "&&", "||", "not in", "starts with",
)  # fmt: skip
NUMBERS = (
    0,
    -1,
    1,
    15,
    16,
    32,
    33,
    128,
    129,
    255,
    256,
    65535,
    65536,
    2**31,
    2**32,
    2**63,
    2**64,
    0.5,
    1e308,
)


def any_bytes(data: bytes, chance: Random) -> bytes:
    """Break the data at one to four places."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(found))
        until = min(len(found), at + chance.choice((0, 1, 1, 2, 8, 40)))
        match chance.randrange(4):
            case 0:
                found[at:until] = chance.choice(WORDS).encode(errors="surrogatepass")
            case 1:
                found[at:until] = chance.randbytes(until - at)
            case 2:
                del found[at:until]
            case _:
                found[at:at] = found[at:until] * chance.choice((1, 1, 2, 50))
    return bytes(found)


def words(data: bytes, chance: Random) -> bytes:
    """Exchange, drop, double or break words of a text."""
    if chance.random() < 0.2:
        return any_bytes(data, chance)
    found = data.decode(errors="replace").split(" ")
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(found))
        match chance.randrange(4):
            case 0:
                found[at] = chance.choice(WORDS)
            case 1:
                found[at] = chance.choice(found)
            case 2:
                found.insert(at, chance.choice(found))
            case _ if len(found) > 1:
                del found[at]
    return " ".join(found).encode(errors="surrogatepass")


def json_values(donors: Sequence[bytes]) -> Mutate:
    """Return what exchanges values of JSON, for odd ones or for those of other seeds."""
    values = [part for donor in donors for part in _parts(json.loads(donor))]
    keys = sorted({key for value in values if isinstance(value, dict) for key in value})

    def mutate(data: bytes, chance: Random) -> bytes:
        try:
            document = json.loads(data)
        except ValueError:
            document = json.loads(chance.choice(donors))
        if chance.random() < 0.05:
            return any_bytes(data, chance)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            document = _changed(document, chance, values, keys)
        return json.dumps(document).encode()

    return mutate


def _parts(value: Any) -> list[Any]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for one in below for part in _parts(one))]


def _changed(value: Any, chance: Random, values: Sequence[Any], keys: Sequence[str]) -> Any:
    """Return the value with one change somewhere in it."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    if not inner or chance.random() < 0.12:
        return _odd(chance, values)
    key, old = chance.choice(inner)
    what = chance.random()
    if isinstance(value, dict):
        if what < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.12:
            return {**value, chance.choice(keys): _odd(chance, values)}
        return {**value, key: _changed(old, chance, values, keys)}
    copy = list(value)
    if what < 0.06:
        del copy[key]
    elif what < 0.12:
        copy += [chance.choice(copy)] * chance.choice((1, 1, 40))
    else:
        copy[key] = _changed(old, chance, values, keys)
    return copy


def _odd(chance: Random, values: Sequence[Any]) -> Any:
    match chance.randrange(6):
        case 0 | 1:
            return chance.choice(values)
        case 2 | 3:
            return chance.choice(WORDS)
        case 4:
            return chance.choice(NUMBERS)
        case _:
            return chance.choice((None, True, False, [], {}, [[]], {"": ""}))
