"""Resources as text: a table, YAML, JSON or names. No I/O."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from hopwall_model.ipam_specs import DEFAULT_BLOCKS_PER_HOST, DEFAULT_COOLDOWN_S
from hopwall_model.migration_specs import SWITCH_ANNOTATION
from hopwall_model.resources import Resource

Json = dict[str, Any]
_Cell = Callable[[Json], Any]

MAX_CELL = 60


def _spec(*path: str) -> _Cell:
    def cell(item: Json) -> Any:
        value: Any = item.get("spec", {})
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value

    return cell


def _setting(item: Json, name: str, usual: int) -> Any:
    return item.get("spec", {}).get(name, usual)


_POLICY: tuple[tuple[str, _Cell], ...] = (
    ("TIER", lambda item: item.get("spec", {}).get("tier", "default")),
    ("ORDER", _spec("order")),
    ("SELECTOR", _spec("selector")),
    ("TYPES", _spec("types")),
)


def _n_rules(item: Json, direction: str) -> int:
    spec = item.get("spec", {})
    return sum(len(spec.get(f"{direction}{family}", [])) for family in ("V4", "V6"))


_NETS: tuple[tuple[str, _Cell], ...] = (("NETS", _spec("nets")),)

#: kind → the columns after its name.
COLUMNS: dict[str, tuple[tuple[str, _Cell], ...]] = {
    "WorkloadEndpoint": (
        ("NODE", _spec("node")),
        ("INTERFACE", _spec("interfaceName")),
        ("NETWORKS", _spec("ipNetworks")),
        ("PROFILES", _spec("profiles")),
    ),
    "HostEndpoint": (
        ("NODE", _spec("node")),
        ("INTERFACE", _spec("interfaceName")),
        ("EXPECTED-IPS", _spec("expectedIPs")),
        ("PROFILES", _spec("profiles")),
    ),
    "NetworkPolicy": _POLICY,
    "GlobalNetworkPolicy": _POLICY,
    "NetworkSet": _NETS,
    "GlobalNetworkSet": _NETS,
    "Profile": (
        ("INGRESS", lambda item: len(item.get("spec", {}).get("ingress", []))),
        ("EGRESS", lambda item: len(item.get("spec", {}).get("egress", []))),
    ),
    "Tier": (
        ("ORDER", _spec("order")),
        ("DEFAULT-ACTION", lambda item: item.get("spec", {}).get("defaultAction", "Deny")),
    ),
    "IPPool": (
        ("CIDR", _spec("cidr")),
        ("NAT", lambda item: bool(item.get("spec", {}).get("natOutgoing", False))),
        ("DISABLED", lambda item: bool(item.get("spec", {}).get("disabled", False))),
    ),
    "BGPConfiguration": (
        ("AS", _spec("asNumber")),
        ("MESH", _spec("nodeToNodeMeshEnabled")),
        ("PORT", _spec("listenPort")),
    ),
    "BGPPeer": (
        ("NODE", lambda item: _spec("node")(item) or _spec("nodeSelector")(item)),
        ("PEER", lambda item: _spec("peerIP")(item) or _spec("peerSelector")(item)),
        ("AS", _spec("asNumber")),
        ("FILTERS", _spec("filters")),
    ),
    "BGPFilter": (
        ("EXPORT", lambda item: _n_rules(item, "export")),
        ("IMPORT", lambda item: _n_rules(item, "import")),
    ),
    "LiveMigration": (
        ("SOURCE", lambda item: _endpoints(item, "source")),
        ("TARGET", lambda item: _endpoints(item, "target")),
        ("SWITCHED", lambda item: _is_switched(item)),
    ),
    "IPReservation": (("CIDRS", _spec("reservedCIDRs")),),
    "IPAMConfiguration": (
        ("STRICT", lambda item: bool(item.get("spec", {}).get("strictAffinity", False))),
        (
            "BLOCKS-PER-HOST",
            lambda item: _setting(item, "maxBlocksPerHost", DEFAULT_BLOCKS_PER_HOST),
        ),
        ("COOLDOWN-S", lambda item: _setting(item, "ipCooldownSeconds", DEFAULT_COOLDOWN_S)),
    ),
    "IPAMBlock": (
        ("CIDR", _spec("cidr")),
        ("AFFINITY", _spec("affinity")),
        ("ASSIGNED", lambda item: len(item.get("spec", {}).get("allocations", []))),
    ),
    "Node": (
        ("IPV4", _spec("bgp", "ipv4Address")),
        ("IPV6", _spec("bgp", "ipv6Address")),
        ("AS", _spec("bgp", "asNumber")),
    ),
}


def _endpoints(item: dict[str, Any], side: str) -> str:
    """Return which endpoints one side of a migration means."""
    given = item.get("spec", {}).get(side, {})
    if "selector" in given:
        return str(given["selector"])
    one = given.get("workloadEndpoint") or given.get("workload") or {}
    parts = [one.get(name, "") for name in ("hostname", "workloadID", "endpointID")]
    return "/".join(part for part in parts if part)


def _is_switched(item: dict[str, Any]) -> bool:
    annotations = item.get("metadata", {}).get("annotations", {})
    return bool(annotations.get(SWITCH_ANNOTATION) == "true")


_WIDE: tuple[tuple[str, _Cell], ...] = (
    ("LABELS", lambda item: item.get("metadata", {}).get("labels")),
    ("REVISION", lambda item: item.get("metadata", {}).get("resourceVersion")),
)


def text_of(value: Any) -> str:
    """Return a value as a table cell shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return ",".join(f"{key}={value[key]}" for key in sorted(value)) or "-"
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value) or "-"
    return str(value)


def render(heading: Sequence[str], rows: Sequence[Sequence[str]], *, cut: bool = True) -> str:
    """Return aligned columns under a heading; with `cut`, long cells end in an ellipsis."""
    shown = [list(heading), *([_cut(cell) if cut else cell for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(heading))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )


def _cut(cell: str) -> str:
    return cell if len(cell) <= MAX_CELL else cell[: MAX_CELL - 1] + "…"


def columns_of(kind: type[Resource], *, wide: bool) -> tuple[tuple[str, _Cell], ...]:
    """Return a kind's columns, its name first."""
    name: tuple[tuple[str, _Cell], ...] = (("NAME", lambda item: item["metadata"]["name"]),)
    if kind.NAMESPACED:
        name = (("NAMESPACE", lambda item: item["metadata"].get("namespace")), *name)
    return (*name, *COLUMNS[kind.__name__], *(_WIDE if wide else ()))


def row_of(kind: type[Resource], item: Json, *, wide: bool) -> list[str]:
    """Return one resource's cells."""
    return [text_of(cell(item)) for _, cell in columns_of(kind, wide=wide)]


def show(kind: type[Resource], items: Sequence[Json], *, form: str, single: bool) -> str:
    """Return resources in the form asked for: table, wide, yaml, json or name.

    Shape:  yaml and json of several resources are one `kind: List`, which `apply` reads again.
    """
    if form == "name":
        return "\n".join(f"{kind.PLURAL}/{item['metadata']['name']}" for item in items)
    if form in ("yaml", "json"):
        whole: Json = {"apiVersion": "v1", "kind": "List", "items": list(items)}
        value = items[0] if single else whole
        if form == "json":
            return json.dumps(value, indent=2, ensure_ascii=False)
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()
    wide = form == "wide"
    if not items:
        return f"There are no {kind.PLURAL}."
    heading = [name for name, _ in columns_of(kind, wide=wide)]
    return render(heading, [row_of(kind, item, wide=wide) for item in items], cut=not wide)
