"""Peers of four makes, the short form: `make bgp-report` asks all of it, and writes it down."""

from itertools import islice
from pathlib import Path

import pytest

from tests.interop import cases, liveness, places
from tests.support.peers import KINDS

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_of_another_make_speaks_with_ours(kind: str, tmp_path: Path) -> None:
    """Sessions come up, routes come, go and are announced with their attributes, in both families."""
    assert len(list(cases.host(kind, tmp_path))) == 12


@pytest.mark.parametrize("case", places.CASES.values(), ids=lambda case: case.__name__)
def test_a_router_is_where_it_is_declared(case: cases.Case, tmp_path: Path) -> None:
    """Ports, gateways, interfaces and paths mean to FRR, in both families, what the resources say."""
    assert {row.family for row in case("frr", tmp_path)} == {4, 6}


def test_a_router_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    """BFD with FRR as routers speak it: no link goes down, and both sides know within seconds."""
    asked = liveness.neighbour("frr", tmp_path)
    seen = [row.what for row in islice(asked, 4)]
    asked.close()
    assert {what.partition(":")[2].split()[0] for what in seen} == {"ours", "its"}
