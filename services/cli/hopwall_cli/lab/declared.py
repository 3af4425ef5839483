"""What a lab asks of the API beside declaring: addresses for a workload, and to forget a host."""

import asyncio
from http import HTTPStatus
from typing import Any

from hopwall_cli.client import Client, Problem
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.topology import Workload
from hopwall_model.resources import ResourceBase

_WORKLOAD, _NODE = kind_named("wep"), kind_named("node")


async def assigned(client: Client, name: str, host: str, **more: Any) -> Workload:
    """Return a workload with addresses of its host's blocks, of both families; its name is the handle.

    Errors: ClientError when there is no address to give.
    """
    wanted = {"handle": name, "node": host, "v4": 1, "v6": 1}
    answer = await client.request("POST", "/v1/ipam/assign", body=wanted)
    addresses = [str(one["address"]) for one in answer["addresses"]]
    (ipv4,) = (address for address in addresses if ":" not in address)
    (ipv6,) = (address for address in addresses if ":" in address)
    return Workload(name=name, host=host, ipv4=ipv4, ipv6=ipv6, **more)


async def withdraw(client: Client, host: str, *, wait: str = "") -> None:
    """Take everything of a host out of the declared state: endpoints, addresses, the Node, its blocks."""
    listed = await client.list(_WORKLOAD, namespace=topo.NAMESPACE)
    mine = [item for item in listed["items"] if item["spec"].get("node") == host]
    names = [str(item["metadata"]["name"]) for item in mine]
    await asyncio.gather(*(_delete(client, _WORKLOAD, name, wait) for name in names))
    for name in names:
        await client.request("POST", "/v1/ipam/release", body={"handle": name})
    await _delete(client, _NODE, host, "")
    # A host that leaves by itself may have spoken just now.
    await client.request("POST", "/v1/ipam/release", body={"node": host, "force": True})


async def known(client: Client, host: str) -> bool:
    """Tell whether a host is declared."""
    listed = await client.list(_NODE)
    return any(item["metadata"]["name"] == host for item in listed["items"])


async def _delete(client: Client, kind: type[ResourceBase], name: str, wait: str) -> None:
    """Delete a resource; one that is gone already is no error."""
    namespace = topo.NAMESPACE if kind.NAMESPACED else ""
    try:
        await client.delete(kind, namespace=namespace, name=name, wait=wait)
    except Problem as problem:
        if problem.status != HTTPStatus.NOT_FOUND:
            raise
