"""Messages of the past: each golden file decodes for ever, and says the same when written again.

A file is never rewritten. A new form of a message gets a new file beside the old ones.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RuleCount, RulesRequest
from hopwall_model.events import ResourceSet
from hopwall_model.flows import CarriedFlows, FlowsRequest
from hopwall_model.release import Released
from hopwall_model.resources import KIND_BY_NAME
from hopwall_model.status import CalcStatus, Drift, HostStatus, Moved, Rejected
from hopwall_model.updates import (
    HostBatch,
    SharedUpdate,
    SnapshotRequest,
    Update,
)
from hopwall_model.validate import admit

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/v*.json"))

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "resource-removed": topics.EVENT.decode,
    "restore-begun": topics.EVENT.decode,
    "restore-ended": topics.EVENT.decode,
    "tombstones-purged": topics.EVENT.decode,
    "host-batch": topics.HOST_BATCH.decode,
    "shared-policy": topics.SHARED.decode,
    "shared-set": topics.SHARED.decode,
    "shared-routes": topics.SHARED.decode,
    "snapshot-request": topics.SNAPSHOT.decode,
    "host-status": topics.HOST_STATUS.decode,
    "calc-status": topics.CALC_STATUS.decode,
    "rules-request": topics.RULES.decode,
    "flows-request": topics.FLOWS.decode,
    "carried-flows": codec.decoder(CarriedFlows),
    "host-rules": codec.decoder(HostRules),
    "release-request": topics.RELEASE.decode,
    "released": codec.decoder(Released),
    "moved": topics.MOVED.decode,
    "drift": topics.DRIFT.decode,
    "rejected": topics.REJECTED.decode,
    **{f"resource-set-{name.lower()}": topics.EVENT.decode for name in KIND_BY_NAME},
}


#: What a reader of today does not take from an old message: the message's file → the fields.
DROPPED = {
    # The default is said per direction since; a reader that does not find it denies.
    "host-batch/v1.json": {"default_action"},
}


def _without(value: Any, fields: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, fields) for k, v in value.items() if k not in fields}
    return [_without(v, fields) for v in value] if isinstance(value, list) else value


def _ids(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_a_golden_message_decodes_and_says_the_same(path: Path) -> None:
    """The message decodes, and encodes to the same JSON value, so nothing in it was lost."""
    data = path.read_bytes()
    value = DECODERS[path.parent.name](data)
    again = codec.encode(value)
    dropped = DROPPED.get(f"{path.parent.name}/{path.name}", set())
    assert json.loads(again) == _without(json.loads(data), dropped)
    assert DECODERS[path.parent.name](again) == value


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name.startswith("resource-set-")], ids=_ids
)
def test_a_golden_resource_is_canonical(path: Path) -> None:
    """A resource in an event is one that admission leaves as it is."""
    event = topics.EVENT.decode(path.read_bytes())
    assert isinstance(event, ResourceSet)
    assert admit(codec.encode(event.resource)) == event.resource


def test_every_message_has_a_golden_file() -> None:
    """No message type is without its first form."""
    assert {path.parent.name for path in FILES if path.stem == "v1"} == set(DECODERS)


def _update_kinds() -> set[str]:
    return {str(type_.__struct_config__.tag) for type_ in Update.__args__}


def test_the_golden_batch_has_every_update() -> None:
    """The newest batch holds each kind of update at least once."""
    batch = topics.HOST_BATCH.decode((GOLDEN / "host-batch/v4.json").read_bytes())
    assert {str(type(u).__struct_config__.tag) for u in batch.updates} == _update_kinds()


@pytest.mark.parametrize(
    "type_",
    [
        HostBatch,
        SharedUpdate,
        SnapshotRequest,
        HostStatus,
        CalcStatus,
        Moved,
        Drift,
        Rejected,
        FlowsRequest,
        CarriedFlows,
        RulesRequest,
        RuleCount,
        HostRules,
    ],
)
def test_what_older_readers_do_not_know_is_skipped(type_: type[Struct]) -> None:
    """Messages between services take unknown fields, so that versions can be mixed."""
    assert not type_.__struct_config__.forbid_unknown_fields
