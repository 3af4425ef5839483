"""The counted, bucketed set."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hopwall_calc.members import Members
from hopwall_model.buckets import MEMBERS_PER_BUCKET, bucket_of


def test_address_stays_until_its_last_source_is_gone() -> None:
    """Two sources, two removals."""
    members = Members(["10.0.0.1/32", "10.0.0.1/32"])
    members.remove("10.0.0.1/32")
    assert members.everything() == {"10.0.0.1/32"}
    members.remove("10.0.0.1/32")
    assert members.everything() == frozenset()


def test_added_and_removed_again_is_not_dirty() -> None:
    """Only buckets whose content differs at the end are dirty."""
    members = Members(["a"])
    members.settle()
    members.add("b")
    members.remove("b")
    members.remove("a")
    members.add("a")
    assert members.dirty_buckets() == []


def test_growth_cuts_anew_and_dirties_everything() -> None:
    """Above the mean bucket size all buckets are sent; members are where the model says."""
    members = Members(str(i) for i in range(MEMBERS_PER_BUCKET))
    assert members.dirty_buckets() == [0]
    members.settle()
    members.add("one more")
    assert members.dirty_buckets() == [0, 1]
    assert all(bucket_of(m, 2) == n for n in (0, 1) for m in members.bucket(n))
    members.settle()
    members.remove("one more")
    assert members.dirty_buckets() == [bucket_of("one more", 2)]


steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), max_size=40)


@given(steps, st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_counts_like_a_counter(changes: list[tuple[bool, str]], final: list[str]) -> None:
    """Any sequence of additions and removals, then a replacement, is what a Counter says."""
    members, counter = Members(), Counter[str]()
    for adds, member in changes:
        if adds:
            members.add(member)
            counter[member] += 1
        elif counter[member]:
            members.remove(member)
            counter[member] -= 1
    assert members.everything() == {m for m, n in counter.items() if n}
    members.settle()
    before = members.everything()
    members.replace(final)
    assert members.everything() == set(final)
    assert members.n_members == len(set(final))
    assert bool(members.dirty_buckets()) == (before != set(final))
    for member in final:
        members.remove(member)
    assert members.everything() == frozenset()
