"""Policy classes: numbering and chains."""

import pytest

from hopwall_dataplane.classes import (
    ClassKey,
    ClassTable,
    NoRoomForClassError,
    PolicyClass,
    numbers_in,
    render_class,
)
from hopwall_dataplane.iptables.render_policy import Direction, policy_chain
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout
from hopwall_model.updates import PolicyId, TierPolicies

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
PASSED = f"{SETTINGS.marks.passed:#x}"
ALLOWED = f"{SETTINGS.marks.allowed:#x}"
#: What follows each jump to an egress policy.
BACK = f"-m mark ! --mark 0x0/{ALLOWED} -j RETURN"
A, B, PROFILE = PolicyId("gnp/a"), PolicyId("gnp/b"), PolicyId("profile/p")


def key(*policies: str) -> ClassKey:
    """Return a class with these ingress policies in one tier."""
    ids = tuple(PolicyId(p) for p in policies)
    return ClassKey((TierPolicies(name="default", ingress=ids),), (PROFILE,))


def jump(policy: PolicyId) -> str:
    """Return the line that jumps to a policy's ingress chain."""
    return f"-j {policy_chain(policy, 'ingress')}"


def class_lines(
    policy_class: PolicyClass, direction: Direction, passing: set[tuple[PolicyId, Direction]]
) -> dict[str, tuple[str, ...]]:
    """Render a class; without the identities its lines bear."""
    rendered = render_class(policy_class, direction, SETTINGS, passing)
    return {name: tuple(map(plain, lines)) for name, lines in rendered.items()}


def test_members_of_one_class_share_its_number() -> None:
    """Only the first member makes a class new."""
    table = ClassTable(10)
    first, new = table.join(key("gnp/a"))
    again, new_again = table.join(key("gnp/a"))
    assert first == again
    assert (new, new_again) == (True, False)


def test_a_number_is_not_used_again_before_the_kernel_forgot_it() -> None:
    """A leaving class keeps its number until its chains and elements are gone."""
    table = ClassTable(10)
    a, _ = table.join(key("gnp/a"))
    assert table.leave(a.key) == a
    b, _ = table.join(key("gnp/b"))
    assert b.number != a.number
    table.forget(a.key.digest)
    c, _ = table.join(key("gnp/c"))
    assert c.number == a.number


def test_the_numbering_is_read_back_from_chain_names() -> None:
    """A process without memory gives a class the number the kernel knows it by."""
    before = ClassTable(100)
    for name in ("gnp/x", "gnp/a", "gnp/b"):
        before.join(key(name))
    names = [c.chain(d) for c in before.classes.values() for d in ("egress", "ingress")]
    after = ClassTable(100)
    after.remember(numbers_in([*names, "hw-from", "hw-from-2-1", "hw-pe-abc", "hw-cfzz-"]))
    assert after.join(key("gnp/b"))[0].number == before.classes[key("gnp/b")].number
    assert after.join(key("gnp/new"))[0].number == 4


def test_a_full_table_refuses_a_new_class() -> None:
    """There is no number beyond the mark's room."""
    table = ClassTable(1)
    table.join(key("gnp/a"))
    with pytest.raises(NoRoomForClassError):
        table.join(key("gnp/b"))


def test_a_class_chain_name_fits_the_kernel() -> None:
    """Also with the highest number and a stage."""
    assert len(PolicyClass(0xFFFF, key("gnp/a")).chain("egress", 99)) <= 28


def test_a_deny_tier_ends_in_a_drop_and_hides_profiles() -> None:
    """Profiles are not reached when a tier decided."""
    made = PolicyClass(1, key("gnp/a", "gnp/b"))
    rendered = class_lines(made, "ingress", set())
    assert rendered == {made.chain("ingress"): (jump(A), jump(B), "-j DROP")}


def test_a_direction_without_policies_is_left_to_the_profiles() -> None:
    """The tier of the class has ingress policies only, so egress is the profiles' business."""
    made = PolicyClass(1, key("gnp/a"))
    rendered = class_lines(made, "egress", set())
    profile = f"-j {policy_chain(PROFILE, 'egress')}"
    assert rendered == {made.chain("egress"): (profile, BACK, "-j DROP")}


def test_no_policy_and_no_profile_is_closed() -> None:
    """An endpoint that nobody speaks for gets nothing."""
    made = PolicyClass(1, ClassKey((), ()))
    assert class_lines(made, "ingress", set()) == {made.chain("ingress"): ("-j DROP",)}


def test_pass_leads_to_the_next_stage() -> None:
    """A packet marked as passed goes back to the class's chain, which calls the next stage."""
    made = PolicyClass(1, key("gnp/a"))
    rendered = class_lines(made, "ingress", {(A, "ingress")})
    assert rendered == {
        made.chain("ingress"): (
            f"-j {made.chain('ingress', 1)}",
            f"-j {made.chain('ingress', 2)}",
            "-j DROP",
        ),
        made.chain("ingress", 1): (
            jump(A),
            f"-m mark ! --mark 0x0/{PASSED} -j RETURN",
            "-j DROP",
        ),
        made.chain("ingress", 2): (
            f"-j MARK --set-xmark 0x0/{PASSED}",
            jump(PROFILE),
            "-j DROP",
        ),
    }


def test_at_egress_a_stage_goes_back_with_what_it_passes_and_with_what_it_allows() -> None:
    """The class's chain goes back with what is allowed, and calls the next stage for the rest."""
    tier = TierPolicies(name="t", egress_default="pass", egress=(A, B))
    made = PolicyClass(1, ClassKey((tier,), ()))
    rendered = class_lines(made, "egress", {(A, "egress")})
    both = SETTINGS.marks.passed | SETTINGS.marks.allowed
    assert rendered == {
        made.chain("egress"): (
            f"-j {made.chain('egress', 1)}",
            BACK,
            f"-j {made.chain('egress', 2)}",
            BACK,
            "-j DROP",
        ),
        made.chain("egress", 1): (
            f"-j {policy_chain(A, 'egress')}",
            f"-m mark ! --mark 0x0/{both:#x} -j RETURN",
            f"-j {policy_chain(B, 'egress')}",
            BACK,
        ),
        made.chain("egress", 2): (f"-j MARK --set-xmark 0x0/{PASSED}", "-j DROP"),
    }


def test_a_pass_tier_goes_on_inline() -> None:
    """A tier whose default is pass continues with the next tier."""
    first = TierPolicies(name="one", ingress_default="pass", ingress=(A,))
    second = TierPolicies(name="two", ingress=(B,))
    made = PolicyClass(1, ClassKey((first, second), ()))
    rendered = class_lines(made, "ingress", set())
    assert rendered == {made.chain("ingress"): (jump(A), jump(B), "-j DROP")}
