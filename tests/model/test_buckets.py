"""Buckets: stable places, and sizes that do not flap."""

from hypothesis import given
from hypothesis import strategies as st

from hopwall_model.buckets import MEMBERS_PER_BUCKET, bucket_of, buckets_for


def test_places_are_stable() -> None:
    """A member's bucket never changes between processes and versions."""
    members = ("10.65.0.21/32", "fd00::1/128", "0.0.0.0/0")
    assert [bucket_of(member, 1024) for member in members] == [800, 499, 214]


@given(st.text(max_size=40), st.integers(0, 12))
def test_a_member_is_in_one_of_the_buckets(member: str, power: int) -> None:
    """The bucket is one of those there are; twice as many buckets only split it."""
    n = 2**power
    place = bucket_of(member, n)
    assert 0 <= place < n
    assert bucket_of(member, 2 * n) % n == place


@given(st.integers(0, 10**6), st.integers(0, 14))
def test_the_number_is_a_power_of_two_and_settles(n_members: int, power: int) -> None:
    """The number is a power of two, not too full, and asking again changes nothing."""
    n = buckets_for(n_members, 2**power)
    assert n & (n - 1) == 0
    assert n_members <= n * MEMBERS_PER_BUCKET
    assert n == 1 or n_members >= n * MEMBERS_PER_BUCKET // 4
    assert buckets_for(n_members, n) == n


@given(st.integers(1, 10), st.integers(-3, 3))
def test_a_set_at_the_limit_does_not_flap(power: int, wobble: int) -> None:
    """A set that hovers at the limit of its buckets is cut anew once at most."""
    limit = 2**power * MEMBERS_PER_BUCKET
    grown = buckets_for(limit + 5, 2**power)
    assert buckets_for(limit + wobble, grown) == grown
