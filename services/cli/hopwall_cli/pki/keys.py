"""NKEYs: the key pairs with which processes show who they are to NATS."""

import os

import nkeys


def new_seed() -> str:
    """Return the secret half of a new user key."""
    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def public_key(seed: str) -> str:
    """Return the public half of a key."""
    return str(nkeys.from_seed(seed.encode()).public_key.decode())
