"""Our rules in the backend that is not used any more: they go, however often something is in the way."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hopwall_dataplane import other_backend
from hopwall_dataplane.iptables.driver import Backend, Restore
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.table import Jump, TableState
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family, Retry
from tests.support.fake_iptables import FakeRestore


async def test_who_is_kept_waiting_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another holds the tool's lock for a while: what was left would stay closed for as long as the agent lives."""
    left = FakeRestore()
    stands = plan_table("filter", {"hw-a": ("-j DROP",)}, [Jump("FORWARD", "hw-a")], TableState())
    assert stands.now is not None
    await left.apply(stands.now)
    left.fail_next_read, left.fail_next = [Retry("locked")], [Retry("locked")]

    async def choose(kind: str, **_: Any) -> Backend:
        return cast(Backend, SimpleNamespace(kind=kind))

    monkeypatch.setattr(other_backend, "_AGAIN_S", 0.0)
    monkeypatch.setattr(other_backend, "choose", choose)
    monkeypatch.setattr(other_backend, "Restore", lambda *_: cast(Restore, left))
    mine = SimpleNamespace(backend=SimpleNamespace(kind="legacy"))
    kernel = cast(Kernel, SimpleNamespace(restores={Family.V4: mine}))
    await other_backend.forsake(kernel, lambda: True)
    assert "hw-" not in left.tables.save("filter")
