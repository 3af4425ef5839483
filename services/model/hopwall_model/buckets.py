"""Cutting a large set of addresses into buckets, so that one change travels as one small message."""

import zlib

#: A bucket is split above this many members on average, and the set merged again below a quarter of it.
MEMBERS_PER_BUCKET = 256


def bucket_of(member: str, n_buckets: int) -> int:
    """Return the bucket of a member; stable over processes and versions (CRC-32, RFC 1952)."""
    return zlib.crc32(member.encode()) & (n_buckets - 1)


def buckets_for(n_members: int, n_buckets: int) -> int:
    """Return how many buckets a set of this size should have, given how many it has.

    A power of two; it grows when the mean exceeds `MEMBERS_PER_BUCKET` and shrinks only below a quarter
    of it, so a set that hovers at a limit is not cut anew at each change.
    """
    while n_members > n_buckets * MEMBERS_PER_BUCKET:
        n_buckets *= 2
    while n_buckets > 1 and n_members < n_buckets * MEMBERS_PER_BUCKET // 4:
        n_buckets //= 2
    return n_buckets
