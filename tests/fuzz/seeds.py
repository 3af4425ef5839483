"""Good inputs of each kind, out of what the project has: examples, golden messages, its own rendering."""

import json
from functools import cache
from pathlib import Path
from random import Random

from hopwall_cli import documents as files_of_users
from hopwall_dataplane.outcome import Family
from hopwall_model import codec
from hopwall_model.events import ResourceSet
from hopwall_model.validate import admit
from tests.proof.pipeline import desired_of, graph_of, tables_text
from tests.proof.strategies import SELECTORS as SELECTOR_TEXTS
from tests.proof.strategies import cloud_of

_ROOT = Path(__file__).parents[2]
_GOLDEN = _ROOT / "tests" / "wire" / "golden"

SELECTORS = tuple(text.encode() for text in SELECTOR_TEXTS)

#: As BIRD 2.0 prints them.
ANSWERS = (
    b"0001 BIRD 2.0.12 ready.\n1000-BIRD 2.0.12\n1011-Router ID is 172.18.203.125\n"
    b" Last reconfiguration on 2026-11-01 10:00:00.000\n0013 Daemon is up and running",
    b"1002-hw_abcdefghijklmnop BGP        ---        up     10:00:00.000  Established\n"
    b"1006-  BGP state:          Established\n     Routes:         3 imported, 1 filtered, 2 exported\n0000 ",
    b"8002 /run/hopwall/bird.conf.new:12:3 syntax error, unexpected CF_SYM_UNDEFINED",
    b"0023 \"abc\"",
)  # fmt: skip

SETTINGS = (
    b"nats_url=nats://127.0.0.1:4222,nats://127.0.0.2:4222",
    b"listen=127.0.0.1:8080,unix:/run/hopwall/api.sock",
    b"failsafe_inbound=tcp:22,udp:68,tcp:179:10.0.0.0/8,tcp:443:fd00::/8",
    b"interface_prefixes=tap,cali",
    b"mark_mask=0xffffff00",
    b"refresh_s=90.0",
    b"log_rate=10/second",
    b"revoke_flows=true",
    b"workload_to_host=drop",
    b"backend=nft",
    b"host=h1",
    b"bird_socket=/run/hopwall/bird.ctl",
    b"routing=bgp",
)


def golden(*prefixes: str) -> tuple[bytes, ...]:
    """Return the golden messages of the kinds that begin so."""
    paths = sorted(
        path for path in _GOLDEN.glob("*/*.json") if path.parent.name.startswith(prefixes)
    )
    return tuple(path.read_bytes() for path in paths)


@cache
def documents() -> tuple[bytes, ...]:
    """Return resources as users send them: the examples, and clouds with every match."""
    given = [d.value for d in files_of_users.read([str(_ROOT / "examples")])]
    made = (
        json.loads(codec.encode(one)) for number in range(12) for one in cloud_of(Random(number))
    )
    kept = (json.loads(text)["resource"] for text in golden("resource-set-"))
    return tuple(json.dumps(one).encode() for one in (*given, *made, *kept))


def files() -> tuple[bytes, ...]:
    """Return the examples as they are on disk."""
    return tuple(path.read_bytes() for path in sorted((_ROOT / "examples").glob("*.yaml")))


@cache
def saves() -> tuple[bytes, ...]:
    """Return tables of a few clouds, as text."""
    found = []
    for number in range(4):
        batch = graph_of(cloud_of(Random(number))).snapshot("h1")
        found += [text.encode() for text in tables_text(desired_of("h1", batch), Family.V4)]
    return tuple(found)


@cache
def events() -> tuple[bytes, ...]:
    """Return the events that these resources are stored as, and those of the golden folder."""
    made = (ResourceSet(resource=admit(one)) for one in documents() if b"IPAMBlock" not in one)
    return (*map(codec.encode, made), *golden("resource-"))
