"""A random life of a cloud whose routes BGP spreads: the machine of all resources, and BGP's beside them."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from hopwall_model.bgp_specs import PrefixLength
from hopwall_model.resources import Resource
from tests.properties.test_calc_machine import HOSTS, CloudMachine, labels
from tests.support import states, states_bgp
from tests.support.calc import Cloud

SELECTORS = ("", "a == '1'", "has(b)", "all()")
#: Among them are addresses of hosts.
PEER_IPS = ("172.18.0.1", "172.18.0.2:1790", "192.0.2.1", "fd00:1::1", "[fd00:2::1]:1790")
BLOCKS = ("10.65.0.0/30", "10.65.0.4/30", "10.65.0.0/29", "fd00::/126", "10.0.0.0/26")
V4 = ("", "172.18.0.1/24", "172.18.0.2/24", "172.18.0.3/24")
V6 = ("", "fd00:1::1/64", "fd00:1::2/64")
names = st.sampled_from(("one", "two", "three"))


@st.composite
def speakers(draw: st.DrawFn) -> Resource:
    """Return a host that speaks BGP."""
    return states_bgp.speaker(
        draw(st.sampled_from((*HOSTS, "h4"))),
        draw(st.sampled_from(V4)),
        draw(st.sampled_from(V6)),
        draw(labels),
        as_number=draw(st.none() | st.just(65001)),
        route_reflector_cluster_id=draw(st.sampled_from(["", "", "1.0.0.1", "1.0.0.2"])),
    )


@st.composite
def peers(draw: st.DrawFn) -> Resource:
    """Return a BGP peer of one of the forms that are admitted."""
    spec: dict[str, Any] = {
        "filters": tuple(draw(st.lists(names, max_size=2, unique=True))),
        "source_address": draw(st.sampled_from(["UseNodeIP", "None"])),
    }
    scope = draw(st.sampled_from(["node", "node_selector", ""]))
    if scope:
        spec[scope] = draw(st.sampled_from(HOSTS if scope == "node" else SELECTORS))
    if draw(st.booleans()):
        spec["peer_ip"] = draw(st.sampled_from(PEER_IPS))
        spec["as_number"] = draw(st.sampled_from([64512, 65001]))
        spec["local_as_number"] = draw(st.none() | st.just(65001))
    else:
        spec["peer_selector"] = draw(st.sampled_from(SELECTORS[1:]))
        spec["reverse_peering"] = draw(st.sampled_from(["Auto", "Manual"]))
    return states_bgp.peer(draw(names), **spec)


@st.composite
def filters(draw: st.DrawFn) -> Resource:
    """Return a BGP filter."""

    def some(*cidrs: str) -> Any:
        lengths = st.none() | st.just(PrefixLength(min=9)) | st.just(PrefixLength(max=26))
        of_range = st.builds(
            draw(st.sampled_from([states_bgp.accept, states_bgp.reject])),
            st.sampled_from(cidrs),
            st.sampled_from(["Equal", "NotEqual", "In", "NotIn"]),
            prefix_length=lengths,
        )
        return st.lists(of_range | st.just(states_bgp.accept()), max_size=2).map(tuple)

    v4, v6 = (
        some("0.0.0.0/0", "10.0.0.0/8", "10.65.0.0/24", "192.0.2.0/24"),
        some("::/0", "fd00::/16"),
    )
    return states_bgp.bgp_filter(
        draw(names), import_v4=draw(v4), import_v6=draw(v6), export_v4=draw(v4)
    )


@st.composite
def configurations(draw: st.DrawFn) -> Resource:
    """Return a BGP configuration, of all hosts or one."""
    spec: dict[str, Any] = {
        "as_number": draw(st.none() | st.just(65000)),
        "listen_port": draw(st.none() | st.just(1790)),
    }
    if draw(st.booleans()):
        mesh = draw(st.sampled_from([None, True, False]))
        return states_bgp.config("default", node_to_node_mesh_enabled=mesh, **spec)
    return states_bgp.config(f"node.{draw(st.sampled_from(HOSTS))}", **spec)


@st.composite
def ranges(draw: st.DrawFn) -> Resource:
    """Return a block, or a pool that may not be announced."""
    if draw(st.booleans()):
        owner = draw(st.sampled_from((*HOSTS, "")))
        block: Resource = states_bgp.block(draw(st.sampled_from(BLOCKS)), owner)
        return block
    cidr = draw(st.sampled_from(["10.65.0.0/24", "10.65.0.0/29", "fd00::/64"]))
    return states.pool(draw(names), cidr, disable_bgp_export=draw(st.booleans()))


class BgpMachine(CloudMachine):
    """Also hosts that speak BGP, with whom, what they say and whose ranges are whose."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud(routing="bgp")

    @rule(resource=speakers() | peers() | filters() | configurations() | ranges())
    def put_bgp(self, resource: Resource) -> None:
        """Set a resource of BGP's."""
        self.put_one(resource)


TestBgpMachine = BgpMachine.TestCase
TestBgpMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
