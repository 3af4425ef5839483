"""The set driver against a real kernel, in a namespace of its own."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import (
    AddElements,
    CreateSet,
    DelElements,
    DestroySet,
    Element,
    ElementsRefused,
    Mark,
    SetOp,
    SetSpec,
    SwapSets,
)
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.outcome import Done, Family, Outcome, Refused, Retry
from hopwall_model.cidr import parse_cidr, split_zero
from hopwall_model.protocols import WITH_PORTS
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

World = dict[str, tuple[SetSpec, dict[Element, Mark | None]]]

NETS = SetSpec("hw4-nets", "hash:net", Family.V4)
HOSTS = SetSpec("hw4-hosts", "hash:ip", Family.V4, maxelem=4)
MARKS = SetSpec("hw4-marks", "hash:net", Family.V4, skbinfo=True)
IFACES = SetSpec("hw4-ifaces", "hash:net,iface", Family.V4)
PORTS = SetSpec("hw4-ports", "hash:ip,port", Family.V4)
NETS6 = SetSpec("hw6-nets", "hash:net", Family.V6)
MARKS6 = SetSpec("hw6-marks", "hash:ip", Family.V6, skbinfo=True)
IFACES6 = SetSpec("hw6-ifaces", "hash:net,iface", Family.V6, skbinfo=True)
PORTS6 = SetSpec("hw6-ports", "hash:ip,port", Family.V6)

EVERY_SHAPE: World = {
    "hw4-nets": (NETS, {Element("10.65.0.24/32"): None, Element("10.66.0.0/16"): None}),
    "hw4-hosts": (HOSTS, {Element("10.65.0.24/32"): None}),
    "hw4-marks": (
        MARKS,
        {
            Element("10.65.0.24/32"): Mark(0x10000, 0xFFFF0000),
            Element("10.67.0.0/24"): Mark(0xFFFFFFFF, 0xFFFFFFFF),
            Element("10.68.0.0/24"): None,
        },
    ),
    "hw4-ifaces": (
        IFACES,
        {Element("0.0.0.0/0", "eth0"): None, Element("10.65.0.24/32", "tap15charslong0"): None},
    ),
    "hw4-ports": (
        PORTS,
        {
            Element("10.65.0.24/32", protocol=p, port=n): None
            for p in WITH_PORTS
            for n in (1, 65535)
        },
    ),
    "hw6-nets": (
        NETS6,
        {Element("fd65::24/128"): None, Element("fd66::/64"): None, Element("::102:304/128"): None},
    ),
    "hw6-ports": (
        PORTS6,
        {Element("fd65::24/128", protocol=p, port=n): None for p in WITH_PORTS for n in (80, 8080)},
    ),
    "hw6-marks": (MARKS6, {Element("fd65::24/128"): Mark(0, 0xFFFF0000)}),
    "hw6-ifaces": (IFACES6, {Element("fd65::24/128", "tap0"): Mark(1, 1)}),
    "hw6-empty": (SetSpec("hw6-empty", "hash:net", Family.V6), {}),
}


@pytest.fixture
def ns() -> Iterator[Netns]:
    """An empty host."""
    with Netns("ipset") as made:
        yield made


def apply(ops: list[SetOp]) -> list[Outcome]:
    """Apply ops with a new driver."""
    driver = IpsetDriver()
    outcomes = driver.apply(ops)
    driver.close()
    return outcomes


def read() -> World:
    """Read with a new driver."""
    driver = IpsetDriver()
    sets = driver.read()
    driver.close()
    return sets


def converge(wanted: World) -> tuple[list[SetOp], list[Outcome]]:
    """Go from whatever is there to what is wanted; return the ops and their outcomes."""
    driver = IpsetDriver()
    sets = AddressSets()
    sets.replace_actual(driver.read())
    for name, (spec, content) in wanted.items():
        sets.set_desired(spec)
        for element, mark in content.items():
            sets.set_element(name, element, mark)
    all_ops: list[SetOp] = []
    all_outcomes: list[Outcome] = []
    for plan in (sets.plan_additions, sets.plan_removals):
        ops = plan()
        outcomes = driver.apply(ops)
        for op, outcome in zip(ops, outcomes, strict=True):
            sets.record(op, outcome)
        all_ops += ops
        all_outcomes += outcomes
    actual = driver.read()
    assert {name: spec for name, (spec, _) in actual.items()} == sets.specs.actual
    assert all(sets.content(name).actual == content for name, (_, content) in actual.items())
    driver.close()
    return all_ops, all_outcomes


def test_every_shape_reads_back_as_it_was_written(ns: Netns) -> None:
    """What is applied is what is read, for all types, both families, with marks and without."""
    _, outcomes = ns.python(converge, EVERY_SHAPE)
    assert set(outcomes) == {Done()}
    assert ns.python(read) == EVERY_SHAPE
    assert ns.python(converge, EVERY_SHAPE) == ([], [])


def test_ipset_tool_sees_the_sets_as_designed(ns: Netns) -> None:
    """The tool that people use shows the types, marks and interfaces."""
    ns.python(converge, EVERY_SHAPE)
    saved = ns.run(["ipset", "save"])
    assert "create hw4-marks hash:net family inet" in saved
    assert "add hw4-marks 10.65.0.24 skbmark 0x10000/0xffff0000" in saved
    assert "add hw4-ifaces 10.65.0.24,tap15charslong0" in saved
    assert "add hw6-nets fd66::/64" in saved
    assert "add hw4-ports 10.65.0.24,sctp:65535" in saved
    assert "add hw6-ports fd65::24,udplite:8080" in saved


def test_everything_unwanted_goes(ns: Netns) -> None:
    """Sets and elements that nobody wants are removed."""
    ns.python(converge, EVERY_SHAPE)
    half: World = {"hw4-nets": (NETS, {Element("10.66.0.0/16"): None})}
    ns.python(converge, half)
    assert ns.python(read) == half
    ns.python(converge, {})
    assert ns.python(read) == {}


def test_repeating_every_op_is_harmless(ns: Netns) -> None:
    """Adding twice changes the mark, deleting and destroying what is absent is done."""
    one = Element("10.0.0.1/32")
    ops: list[SetOp] = [
        CreateSet(MARKS),
        AddElements(MARKS, {one: Mark(1, 255)}),
        AddElements(MARKS, {one: Mark(2, 255)}),
    ]
    assert ns.python(apply, ops) == [Done()] * 3
    assert ns.python(read)["hw4-marks"][1] == {one: Mark(2, 255)}
    assert ns.python(apply, [AddElements(MARKS, {one: None})]) == [Done()]
    assert ns.python(read)["hw4-marks"][1] == {one: None}
    ends: list[SetOp] = [DelElements(MARKS, (one,)), DestroySet("hw4-marks")]
    assert ns.python(apply, ends) == [Done()] * 2
    assert ns.python(apply, ends) == [Done()] * 2


def test_other_spec_is_swapped_in_under_a_rule_that_uses_it(ns: Netns) -> None:
    """A set that a rule holds becomes another in place, and nothing temporary remains."""
    ns.python(converge, {"hw4-nets": (NETS, {Element("10.0.0.1/32"): None})})
    rule = ["-m", "set", "--match-set", "hw4-nets", "src", "-j", "ACCEPT"]
    ns.run(["iptables", "-A", "INPUT", *rule])
    wider = SetSpec("hw4-nets", "hash:net", Family.V4, skbinfo=True)
    wanted: World = {"hw4-nets": (wider, {Element("10.0.0.2/32"): Mark(1, 1)})}
    _, outcomes = ns.python(converge, wanted)
    assert set(outcomes) == {Done()}
    assert ns.python(read) == wanted
    ns.run(["iptables", "-C", "INPUT", *rule])


def test_set_in_use_is_retried(ns: Netns) -> None:
    """A set that a rule still names cannot be destroyed yet."""
    ns.python(apply, [CreateSet(NETS)])
    ns.run(
        ["iptables", "-A", "INPUT", "-m", "set", "--match-set", "hw4-nets", "src", "-j", "ACCEPT"]
    )
    (outcome,) = ns.python(apply, [DestroySet("hw4-nets")])
    assert isinstance(outcome, Retry)
    assert "in use" in outcome.reason


def test_foreign_sets_are_neither_read_nor_touched(ns: Netns) -> None:
    """A set without our prefix is not ours, whoever asks."""
    ns.run(["ipset", "create", "users", "hash:net"])
    ns.run(["ipset", "add", "users", "10.0.0.1"])
    before = ns.run(["ipset", "save"])
    users = SetSpec("users", "hash:net", Family.V4)
    ops: list[SetOp] = [
        CreateSet(users),
        AddElements(users, {Element("10.0.0.2/32"): None}),
        DelElements(users, (Element("10.0.0.1/32"),)),
        SwapSets("users", "hw4-nets"),
        DestroySet("users"),
    ]
    outcomes = ns.python(apply, ops)
    assert all(isinstance(outcome, Refused) for outcome in outcomes)
    assert ns.run(["ipset", "save"]) == before
    assert ns.python(read) == {}


BAD = [
    (NETS, Element("0.0.0.0/0"), None, "prefix length is not valid"),
    (NETS, Element("fd65::1/128"), None, "cannot be in set"),
    (NETS, Element("10.0.0.1/32", "tap0"), None, "interface"),
    (NETS, Element("10.0.0.1/32"), Mark(1, 1), "without marks"),
    (HOSTS, Element("10.0.0.0/24"), None, "not a single address"),
    (HOSTS, Element("0.0.0.0/32"), None, "null address"),
    (IFACES, Element("10.0.0.1/32"), None, "interface"),
    (NETS, Element("10.0.0.1/32", protocol=6, port=80), None, "port"),
    (PORTS, Element("10.0.0.1/32"), None, "port"),
    (PORTS, Element("10.0.0.1/32", protocol=1, port=80), None, "port"),
    (PORTS, Element("10.0.0.1/32", protocol=6, port=65536), None, "port"),
    (PORTS, Element("10.0.0.0/24", protocol=6, port=80), None, "not a single address"),
    (MARKS, Element("10.0.0.1/32"), Mark(1 << 32, 1), "32 bits"),
    (NETS6, Element("::/0"), None, "prefix length is not valid"),
]


@pytest.mark.parametrize(("spec", "bad", "mark", "reason"), BAD)
def test_bad_element_is_refused_alone(
    ns: Netns, spec: SetSpec, bad: Element, mark: Mark | None, reason: str
) -> None:
    """The bad element is named with its reason; all others of its message are in the kernel."""
    interface = "eth0" if "iface" in spec.type else ""
    service = (6, 80) if "port" in spec.type else (0, 0)
    text = "fd99::{}/128" if spec.family is Family.V6 else "10.9.9.{}/32"
    good = [Element(text.format(i), interface, *service) for i in (1, 2, 3)]
    elements: dict[Element, Mark | None] = {good[0]: None, bad: mark}
    elements |= dict.fromkeys(good[1:])
    outcomes = ns.python(apply, [CreateSet(spec), AddElements(spec, elements)])
    assert outcomes[0] == Done()
    assert isinstance(outcomes[1], ElementsRefused)
    assert list(outcomes[1].elements) == [bad]
    assert reason in outcomes[1].elements[bad]
    assert set(ns.python(read)[spec.name][1]) == set(good)


def test_full_set_refuses_only_what_does_not_fit(ns: Netns) -> None:
    """A set at its limit keeps what it has and names what it has no room for."""
    elements: dict[Element, Mark | None] = {Element(f"10.0.0.{i}/32"): None for i in range(1, 9)}
    _, outcome = ns.python(apply, [CreateSet(HOSTS), AddElements(HOSTS, elements)])
    assert isinstance(outcome, ElementsRefused)
    assert "full" in outcome.reason
    held = ns.python(read)["hw4-hosts"][1]
    assert held.keys() | outcome.elements.keys() == elements.keys()
    assert not held.keys() & outcome.elements.keys()


def test_whole_address_space_is_held_as_two_halves(ns: Netns) -> None:
    """A prefix length of 0 is written as two of 1."""
    elements = {Element(half): None for half in split_zero(parse_cidr("0.0.0.0/0"))}
    assert ns.python(apply, [CreateSet(NETS), AddElements(NETS, elements)]) == [Done()] * 2
    assert ns.run(["ipset", "test", "hw4-nets", "203.0.113.9"]) == ""


OTHERS = [
    (CreateSet(SetSpec("hw4-" + "n" * 30, "hash:net", Family.V4)), Refused, "could not be made"),
    (CreateSet(SetSpec("hw4-x", "hash:nonsense", Family.V4)), Refused, "set type"),  # type: ignore[arg-type]
    (CreateSet(NETS), Retry, "stands already"),
    (AddElements(MARKS, {Element("10.0.0.1/32"): None}), Retry, "hw4-marks"),
    (SwapSets("hw4-nets", "hw4-gone"), Retry, "does not exist"),
    (SwapSets("hw4-nets", "hw4-hosts"), Refused, "different types"),
]


@pytest.mark.parametrize(("op", "kind", "reason"), OTHERS)
def test_errors_of_whole_sets_are_classified(
    ns: Netns, op: SetOp, kind: type[Refused | Retry], reason: str
) -> None:
    """What may hold later is retried, what can never hold is refused, each in words."""
    ns.python(apply, [CreateSet(NETS), CreateSet(HOSTS)])
    (outcome,) = ns.python(apply, [op])
    assert isinstance(outcome, kind)
    assert reason in outcome.reason


def test_swap_waits_for_a_whole_set(ns: Netns) -> None:
    """A set that could not be filled is never swapped in: the old one stays as it is."""
    target = SetSpec("hw4-nets-t", "hash:net", Family.V4)
    ns.python(apply, [CreateSet(NETS), AddElements(NETS, {Element("10.0.0.1/32"): None})])
    ops: list[SetOp] = [
        AddElements(target, {Element("10.0.0.2/32"): None}),
        CreateSet(target),
        SwapSets("hw4-nets", "hw4-nets-t"),
    ]
    outcomes = ns.python(apply, ops)
    assert [type(outcome) for outcome in outcomes] == [Retry, Done, Retry]
    assert ns.python(read)["hw4-nets"][1] == {Element("10.0.0.1/32"): None}


@pytest.mark.parametrize(
    "change",
    [
        ["add", "hw4-nets", "10.0.0.0/8", "nomatch"],
        ["del", "hw4-nets", "10.0.0.0/8"],
        ["add", "hw4-nets", "192.168.0.0/16"],
        ["add", "hw4-nets", "192.168.0.0/16", "nomatch"],
        ["destroy", "hw4-nets"],
        ["flush", "hw4-nets"],
    ],
)
def test_set_of_ours_that_others_changed_is_repaired(ns: Netns, change: list[str]) -> None:
    """Drift is seen in whatever form, and mended."""
    wanted: World = {"hw4-nets": (NETS, {Element("10.0.0.0/8"): None})}
    ns.python(converge, wanted)
    ns.run(["ipset", "-exist", *change])
    _, outcomes = ns.python(converge, wanted)
    assert set(outcomes) == {Done()}
    assert ns.python(read) == wanted
    assert "nomatch" not in ns.run(["ipset", "save"])


STRANGE = [
    (NETS, "hash:net timeout 60"),
    (NETS, "hash:net counters"),
    (NETS, "hash:net comment"),
    (HOSTS, "hash:ip netmask 24"),
    (HOSTS, "hash:ip forceadd"),
    (PORTS, "hash:ip,port timeout 0"),
]


@pytest.mark.parametrize(("spec", "made"), STRANGE)
def test_set_of_ours_with_strange_extensions_is_rebuilt(
    ns: Netns, spec: SetSpec, made: str
) -> None:
    """A set that somebody else made under our name is not taken for ours, and is replaced in use."""
    ns.run(["ipset", "create", spec.name, *made.split()])
    match = ["-m", "set", "--match-set", spec.name, "src,src" if spec is PORTS else "src"]
    ns.run(["iptables", "-A", "INPUT", *match, "-j", "ACCEPT"])
    service = (17, 53) if spec is PORTS else (0, 0)
    element = Element("10.0.0.1/32", "", *service)
    wanted: World = {spec.name: (spec, {element: None})}
    _, outcomes = ns.python(converge, wanted)
    assert set(outcomes) == {Done()}
    assert ns.python(read) == wanted


@pytest.mark.parametrize(
    "made", ["hash:ip", "hash:ip,port", "hash:net family inet6", "bitmap:port range 1-9"]
)
def test_set_of_another_type_under_our_name_is_made_anew(ns: Netns, made: str) -> None:
    """The kernel swaps only equal types; nothing of ours names such a set, so it can go."""
    ns.run(["ipset", "create", "hw4-nets", *made.split()])
    wanted: World = {"hw4-nets": (NETS, {Element("10.0.0.0/8"): None})}
    _, outcomes = ns.python(converge, wanted)
    assert set(outcomes) == {Done()}
    assert ns.python(read) == wanted


def test_set_that_outgrows_its_room_is_swapped_for_a_larger_one(ns: Netns) -> None:
    """Nothing is ever refused because a set is full; a rule that names it sees all of the old or the new."""
    small = structs.replace(NETS, maxelem=4)
    few: World = {"hw4-nets": (small, {Element(f"10.0.0.{i}/32"): None for i in range(1, 5)})}
    ns.python(converge, few)
    rule = ["-m", "set", "--match-set", "hw4-nets", "src", "-j", "ACCEPT"]
    ns.run(["iptables", "-A", "INPUT", *rule])
    many: World = {"hw4-nets": (small, {Element(f"10.0.0.{i}/32"): None for i in range(1, 200)})}
    _, outcomes = ns.python(converge, many)
    assert set(outcomes) == {Done()}
    spec, content = ns.python(read)["hw4-nets"]
    assert (spec.maxelem, content) == (256, many["hw4-nets"][1])
    _, outcomes = ns.python(converge, few)
    assert set(outcomes) == {Done()}
    assert ns.python(read)["hw4-nets"][0].maxelem == 256  # it does not shrink
    assert ns.python(converge, few) == ([], [])


def test_small_sets_have_small_hashes(ns: Netns) -> None:
    """Many sets have few members: each begins with the least the kernel allocates."""
    ns.python(converge, {"hw4-nets": (NETS, {Element("10.0.0.1/32"): None})})
    assert "hashsize 64 " in ns.run(["ipset", "list", "-t", "hw4-nets"])


def test_overlapping_networks_are_members_apart(ns: Netns) -> None:
    """A network goes without those within it, or around it."""
    nets = [Element(cidr) for cidr in ("10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32")]
    ns.python(apply, [CreateSet(NETS), AddElements(NETS, dict.fromkeys(nets))])
    ns.python(apply, [DelElements(NETS, (nets[1],))])
    for inside in ("10.1.1.1", "10.1.1.2", "10.2.0.1"):
        ns.run(["ipset", "test", "hw4-nets", inside])
    ns.python(apply, [DelElements(NETS, (nets[0],))])
    ns.run(["ipset", "test", "hw4-nets", "10.1.1.1"])
    assert set(ns.python(read)["hw4-nets"][1]) == {nets[2]}


def test_more_elements_than_one_message_holds(ns: Netns) -> None:
    """Large content is cut into messages and joined from a listing, with nothing lost."""
    content: dict[Element, Mark | None] = {
        Element(f"10.{i // 65536}.{i // 256 % 256}.{i % 256}/32"): None for i in range(1, 9001)
    }
    wanted: World = {"hw4-nets": (NETS, content)}
    ops, outcomes = ns.python(converge, wanted)
    assert len(ops) == 2
    assert set(outcomes) == {Done()}
    assert ns.python(read) == wanted
