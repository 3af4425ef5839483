"""The text of a nats-server's configuration: what makes acknowledged mean stored, bounded, and in three places.

Pure. `sync_interval: always` makes the server fsync before it acknowledges; its default acknowledges first and
loses everything since the last sync in a power cut. `max_file_store` lies below the disk's size: a server whose
disk is full takes no writes any more until it is restarted, also when there is room again.
Who may connect and do what is another text, put behind this one.

Source: NATS server configuration: JetStream, clustering.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1024 * 1024
#: What a store may grow to where the disk allows it.
MOST_BYTES = 4 * 1024 * MIB
LEAST_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where the server keeps its streams, and how much."""

    folder: str
    file_bytes: int = MOST_BYTES
    memory_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One server's place in a cluster: where the others reach it, and where it reaches all, itself included.

    Shape: `security` is a file to include that says who is one of the servers (`pki.nats_conf`); without it whoever
           reaches `listen` is, and says and hears all, whatever its users may do.
    """

    listen: str
    routes: Sequence[str]
    name: str = "hopwall"
    security: str = ""


def bytes_for(free: int, used: int) -> int:
    """Return how large a store may grow on a disk with this much free, of which it uses so much already."""
    return max(LEAST_BYTES, min(MOST_BYTES, (free + used) * 4 // 5))


def render(
    *,
    listen: str,
    storage: Storage,
    name: str = "hopwall",
    http: str = "",
    cluster: Cluster | None = None,
) -> str:
    """Return the whole file. `http` is where the server shows its state; only ever on loopback."""
    monitor = f"http: {json.dumps(http)}\n" if http else ""
    return f"""\
# Written by hopwall; changed by hand it will be written again.
listen: {json.dumps(listen)}
server_name: {name}
{monitor}max_payload: 8MB
write_deadline: "10s"
jetstream {{
  store_dir: {json.dumps(storage.folder)}
  sync_interval: always
  max_file_store: {storage.file_bytes}
  max_memory_store: {storage.memory_bytes}
}}
{_cluster(cluster) if cluster else ""}"""


def _cluster(cluster: Cluster) -> str:
    routes = "\n".join(f"    {json.dumps(f'nats://{route}')}" for route in cluster.routes)
    security = f"  include {json.dumps(cluster.security)}\n" if cluster.security else ""
    return f"""\
cluster {{
  name: {cluster.name}
  listen: {json.dumps(cluster.listen)}
{security}  routes: [
{routes}
  ]
}}
"""
