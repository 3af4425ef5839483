"""Who is limited to namespaces learns what stands in the way of a write, and not whose it is in another."""

from hopwall_api.access.discreet import told
from hopwall_api.access.roles import Caller, Role
from hopwall_api.progress import HostCounts, Laggard, Progress

SHOP = Caller(name="shop", role=Role.EDITOR, namespaces=("shop",))
EVERYWHERE = Caller(name="all", role=Role.EDITOR)


def progress(*reasons: str) -> Progress:
    """Return a progress with a laggard for each reason."""
    return Progress(
        conditions=(),
        hosts=HostCounts(desired=1, programmed=0, failed=1),
        laggards=tuple(Laggard(host="h1", reason=reason) for reason in reasons),
    )


def test_names_of_other_namespaces_are_left_out() -> None:
    """The address is somebody's, the policy is refused: that is all. What is one's own is named."""
    given = progress(
        "Host h1 refused address 10.65.0.21/32 of endpoint shop/w: It is that of endpoint prod/db-1, which is older.",
        "Host h1 refused policy np/prod/db-in: too long endpoint prod/db.2: x",
        "Host h1 waits for shop/w: Interface tap1 does not exist on host h1.",
    )
    assert [one.reason for one in told(SHOP, given).laggards] == [
        "Host h1 refused address 10.65.0.21/32 of endpoint shop/w: It is that of an endpoint of another namespace,"
        " which is older.",
        "Host h1 refused a policy of another namespace: too long an endpoint of another namespace: x",
        "Host h1 waits for shop/w: Interface tap1 does not exist on host h1.",
    ]
    assert told(EVERYWHERE, given) == given
