"""api → host and back: that a snapshot which the host holds back is to be obeyed after all."""

from msgspec import Struct


class ReleaseRequest(Struct, frozen=True, kw_only=True):
    """Obey the snapshots of this epoch. It binds the request to what the operator looked at."""

    epoch: str


class Released(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host did about it."""

    host: str
    #: Why it did nothing; "" when the snapshot is obeyed.
    failure: str = ""
