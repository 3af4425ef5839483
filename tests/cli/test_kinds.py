import pytest

from hopwall_cli.errors import Usage
from hopwall_cli.kinds import kind_named, names_of
from hopwall_model.resources import KINDS, GlobalNetworkPolicy, WorkloadEndpoint


@pytest.mark.parametrize("text", ["gnp", "GNP", "globalnetworkpolicies", "GlobalNetworkPolicy"])
def test_kind_is_found_by_every_name_in_any_case(text: str) -> None:
    """Plural, singular and short names are the same kind."""
    assert kind_named(text) is GlobalNetworkPolicy
    assert kind_named("wep") is WorkloadEndpoint


def test_no_name_means_two_kinds() -> None:
    """All names of all kinds differ."""
    names = [name for kind in KINDS for name in set(names_of(kind))]
    assert len(names) == len(set(names))


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    """A wrong kind is a wrong call, and the answer lists the right ones."""
    with pytest.raises(Usage, match=r"no kind 'pods'; the kinds are .*workloadendpoints"):
        kind_named("pods")
