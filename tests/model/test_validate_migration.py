"""Live migrations: what is admitted, and what is wrong with the rest."""

from typing import Any

import pytest

from hopwall_model.problems import Code
from hopwall_model.resources import LiveMigration
from hopwall_model.validate import admit
from tests.model.documents import document, problems, wep

HERE = {"hostname": "h1", "orchestratorID": "openstack", "workloadID": "vm1", "endpointID": "eth0"}
THERE = HERE | {"hostname": "h2"}


def move(source: dict[str, Any], target: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a migration as a user writes it."""
    return document("LiveMigration", {"source": source, "target": target}, **metadata)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"workloadEndpoint": HERE}, {"workloadEndpoint": THERE}),
        ({"workload": {"workloadID": "ns/pod", "orchestratorID": "k8s"}}, {"selector": "a == 'b'"}),
        ({"workload": {"workloadID": "vm1", "hostname": "h1"}}, {"workloadEndpoint": THERE}),
    ],
)
def test_calicos_forms_are_admitted(source: dict[str, Any], target: dict[str, Any]) -> None:
    """Each way Calico has to name the two ends is taken, in the default namespace, and kept."""
    admitted = admit(move(source, target))
    assert isinstance(admitted, LiveMigration)
    assert admitted.metadata.namespace == "default"
    assert admit({**move(source, target), "kind": "LiveMigration"}) == admitted


@pytest.mark.parametrize(
    ("source", "target", "where"),
    [
        ({}, {"workloadEndpoint": THERE}, [("/spec/source", Code.CONFLICT)]),
        (
            {"workloadEndpoint": HERE, "workload": {"workloadID": "a", "hostname": "h1"}},
            {"selector": "all()"},
            [("/spec/source", Code.CONFLICT)],
        ),
        ({"workloadEndpoint": HERE}, {}, [("/spec/target", Code.CONFLICT)]),
        (
            {"workloadEndpoint": HERE},
            {"workloadEndpoint": THERE, "selector": "all()"},
            [("/spec/target", Code.CONFLICT)],
        ),
        (
            {"workloadEndpoint": HERE},
            {"workloadEndpoint": HERE},
            [("/spec/target", Code.CONFLICT)],
        ),
        (
            {"workloadEndpoint": HERE | {"hostname": ""}},
            {"selector": "a =="},
            [
                ("/spec/source/workloadEndpoint/hostname", Code.MISSING),
                ("/spec/target/selector", Code.VALUE),
            ],
        ),
        (
            {"workloadEndpoint": HERE | {"hostname": "H 1", "endpointID": ""}},
            {"selector": "global()"},
            [
                ("/spec/source/workloadEndpoint/endpointID", Code.MISSING),
                ("/spec/source/workloadEndpoint/hostname", Code.VALUE),
                ("/spec/target/selector", Code.VALUE),
            ],
        ),
        (
            {"workload": {"workloadID": "", "hostname": "h1"}},
            {"workloadEndpoint": THERE | {"orchestratorID": "x" * 2000}},
            [
                ("/spec/source/workload/workloadID", Code.MISSING),
                ("/spec/target/workloadEndpoint/orchestratorID", Code.LIMIT),
            ],
        ),
    ],
)
def test_what_is_wrong_is_named(
    source: dict[str, Any], target: dict[str, Any], where: list[tuple[str, Code]]
) -> None:
    """A side that is not one clear reference is refused with its path."""
    assert problems(move(source, target)) == where


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "9" * 19])
def test_a_move_generation_is_a_number(text: str) -> None:
    """What says which endpoint is the later one is a whole number."""
    given = wep()
    given["metadata"] = {**given["metadata"], "annotations": {"hopwall.io/move-generation": text}}
    place = "/metadata/annotations/hopwall.io~1move-generation"
    assert problems(given) == [(place, Code.VALUE)]


def test_a_switch_is_true_or_false() -> None:
    """Another word than true or false would be a switch that nobody carries out."""
    given = move({"workloadEndpoint": HERE}, {"selector": "all()"})
    given["metadata"]["annotations"] = {"hopwall.io/switch": "yes"}
    assert problems(given) == [("/metadata/annotations/hopwall.io~1switch", Code.VALUE)]
