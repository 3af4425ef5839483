"""Which peers have been away for so long that neither side keeps anything of the other.

Pure. A BIRD that comes back from a crash waits for all of its peers before it tells them, or its kernel, anything
new: what they do not say again is still in the kernel, and must not go before they could say it. Of a peer that was
away for longer than routes are kept there is nothing left to wait for.
"""

from collections.abc import Iterable, Mapping

from hopwall_dataplane.bgp.times import kept, same
from hopwall_model.bgp import Session
from hopwall_model.status import BgpSession

#: Session → since when it is down: in the daemon's words, and by our clock when first seen so.
Absences = Mapping[str, tuple[str, float]]

#: BIRD's own hold time, where no keepalive is said; and how many keepalives it is otherwise.
_HOLD_S, _KEEPALIVES = 240, 3


def noted(before: Absences, seen: Iterable[BgpSession], now_s: float) -> Absences:
    """Return the sessions that are down and hold no routes, after a look.

    One that was up between two looks is new: the daemon's `since` is another moment.
    """
    found: dict[str, tuple[str, float]] = {}
    for session in seen:
        if session.state == "Established" or session.imported:
            continue
        known = before.get(session.name)
        if known and same(known[0], session.since):
            found[session.name] = (kept(known[0], session.since), known[1])
        else:
            found[session.name] = (session.since, now_s)
    return found


def forgotten(absences: Absences, sessions: Iterable[Session], now_s: float) -> frozenset[str]:
    """Return the sessions whose peers keep nothing of ours any more, and we nothing of theirs.

    A peer may notice the end as late as its hold time, and keeps our routes for the restart time from then on.
    """
    return frozenset(
        session.name
        for session in sessions
        if session.name in absences and now_s - absences[session.name][1] > _kept_s(session)
    )


def _kept_s(session: Session) -> int:
    hold_s = session.keepalive_s * _KEEPALIVES or _HOLD_S
    return session.restart_s + hold_s
