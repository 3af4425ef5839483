import json

import yaml

from hopwall_cli import table
from hopwall_cli.documents import load_text
from hopwall_model.resources import KINDS, GlobalNetworkPolicy, WorkloadEndpoint

WEP = {
    "kind": "WorkloadEndpoint",
    "metadata": {"name": "vm1", "namespace": "default", "labels": {"b": "2", "a": "1"}},
    "spec": {"node": "h1", "interfaceName": "tap1", "ipNetworks": ["10.65.0.1/32"]},
}


def test_table_shows_columns_of_the_kind() -> None:
    """A table is aligned, and what is not set is a dash."""
    text = table.show(WorkloadEndpoint, [WEP], form="table", single=False)
    assert text == (
        "NAMESPACE   NAME   NODE   INTERFACE   NETWORKS       PROFILES\n"
        "default     vm1    h1     tap1        10.65.0.1/32   -"
    )


def test_wide_adds_labels_and_revision() -> None:
    """Wide is the table with labels and revision, and nothing cut."""
    text = table.show(WorkloadEndpoint, [WEP], form="wide", single=False)
    assert "a=1,b=2" in text


def test_long_cells_are_cut_in_a_table_only() -> None:
    """A cell of a table has an end; wide has none."""
    item = {"metadata": {"name": "p"}, "spec": {"selector": "x" * 100, "order": 10.0}}
    assert "x" * 100 not in table.show(GlobalNetworkPolicy, [item], form="table", single=False)
    wide = table.show(GlobalNetworkPolicy, [item], form="wide", single=False)
    assert "x" * 100 in wide
    assert " 10 " in wide


def test_every_kind_has_columns() -> None:
    """Each kind can be shown, also when its spec is empty."""
    for kind in KINDS:
        text = table.show(kind, [{"metadata": {"name": "n"}}], form="table", single=False)
        assert len(text.splitlines()) == 2


def test_machine_forms_are_read_back_by_apply() -> None:
    """YAML and JSON of a list are a `kind: List` that `apply` takes apart again."""
    text = table.show(WorkloadEndpoint, [WEP, WEP], form="yaml", single=False)
    assert [d.value for d in load_text(text, "t.yaml")] == [WEP, WEP]
    assert yaml.safe_load(table.show(WorkloadEndpoint, [WEP], form="yaml", single=True)) == WEP
    assert json.loads(table.show(WorkloadEndpoint, [WEP], form="json", single=True)) == WEP
    assert table.show(WorkloadEndpoint, [WEP], form="name", single=False) == "workloadendpoints/vm1"
