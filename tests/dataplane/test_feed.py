"""From messages to whole steps."""

import pytest

from hopwall_dataplane.feed import AskAgain, Feed, Found, Step
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    HostBatch,
    NeedRemoved,
    NeedSet,
    PolicyId,
    PolicySet,
    Scope,
    SetBucket,
    SetId,
    SharedPiece,
    SharedUpdate,
    Update,
)

P = Scope("policy/gnp/p")


def policy(version: int, previous: int = 0) -> PolicySet:
    """Return a version of policy p."""
    return PolicySet(id=PolicyId("gnp/p"), version=version, previous=previous)


def batch(number: int, *updates: Update, full: bool = False, epoch: str = "e") -> HostBatch:
    """Return a batch whose revision is ten times its number."""
    return HostBatch(
        host="h1", epoch=epoch, number=number, revision=number * 10, full=full, updates=updates
    )


def shared(piece: SharedPiece, epoch: str = "e") -> SharedUpdate:
    """Return a shared update."""
    return SharedUpdate(epoch=epoch, revision=1, piece=piece)


def started() -> Feed:
    """Return a feed that holds p at version 1, after batch 1."""
    feed = Feed()
    steps = feed.on_batch(batch(1, policy(1), NeedSet(scope=P, version=1), full=True))
    assert [s.full for s in steps_of(steps)] == [True]
    return feed


def change(name: str = "a") -> EndpointSet:
    """Return something for a batch to say."""
    return EndpointSet(id=EndpointId(f"d/{name}"), interface=f"tap{name}")


def steps_of(found: list[Found]) -> list[Step]:
    """Return the steps, among which must be no doubt."""
    steps = [one for one in found if isinstance(one, Step)]
    assert steps == found
    return steps


def test_before_a_snapshot_a_delta_asks_for_one() -> None:
    """Nothing is applied on top of nothing."""
    assert Feed().on_batch(batch(1)) == [AskAgain("epoch")]


def test_a_batch_waits_for_the_shared_piece_it_names() -> None:
    """The step comes when the piece comes, and carries it first."""
    feed = started()
    need = NeedSet(scope=P, version=5)
    assert feed.on_batch(batch(2, need)) == []
    assert feed.waiting_for == P
    (step,) = steps_of(feed.on_shared(shared(policy(5, previous=1))))
    assert step.updates == (policy(5, previous=1), need)
    assert step.revision == 20
    assert feed.waiting_for == ""


def test_a_piece_that_comes_first_is_kept_for_its_batch() -> None:
    """Order between the two roads does not matter."""
    feed = started()
    assert feed.on_shared(shared(policy(5, previous=1))) == []
    (step,) = steps_of(feed.on_batch(batch(2, NeedSet(scope=P, version=5))))
    assert step.updates[0] == policy(5, previous=1)


def test_a_chain_of_pieces_is_handed_on_in_order() -> None:
    """Several pieces of one scope reach the named version together."""
    feed = Feed()
    scope = Scope("set/s:x")
    bucket = SetBucket(id=SetId("s:x"), version=1)
    feed.on_batch(batch(1, bucket, NeedSet(scope=scope, version=1), full=True))
    second = SetBucket(id=SetId("s:x"), version=2, previous=1, bucket=0)
    third = SetBucket(id=SetId("s:x"), version=3, previous=2, bucket=1)
    feed.on_shared(shared(second))
    assert feed.on_batch(batch(2, NeedSet(scope=scope, version=3))) == []
    (step,) = steps_of(feed.on_shared(shared(third)))
    assert step.updates[:2] == (second, third)


def test_a_missed_piece_is_noticed_by_the_next_one() -> None:
    """A piece whose predecessor never came asks for a snapshot."""
    feed = started()
    feed.on_batch(batch(2, NeedSet(scope=P, version=7)))
    assert feed.on_shared(shared(policy(7, previous=5))) == [AskAgain(f"missed {P}")]


def test_a_gap_in_the_numbers_asks_again() -> None:
    """Batch 3 after batch 1 is a gap."""
    assert started().on_batch(batch(3, change())) == [AskAgain("gap")]


def test_duplicates_of_batches_and_pieces_change_nothing() -> None:
    """What came once is not handed on twice."""
    feed = started()
    second = batch(2, change())
    assert len(steps_of(feed.on_batch(second))) == 1
    assert feed.on_batch(second) == []
    assert feed.on_shared(shared(policy(1))) == []


def test_a_heartbeat_advances_the_revision_only() -> None:
    """The last number again, with nothing in it, says that nothing changed up to its revision."""
    feed = started()
    beat = HostBatch(host="h1", epoch="e", number=1, revision=99)
    (step,) = steps_of(feed.on_batch(beat))
    assert (step.revision, step.updates) == (99, ())


@pytest.mark.parametrize("number", [2, 3])
def test_a_heartbeat_with_a_higher_number_shows_a_lost_batch(number: int) -> None:
    """A lost last batch is noticed by the heartbeat after it, which must not pass for that batch."""
    beat = HostBatch(host="h1", epoch="e", number=number, revision=99)
    assert started().on_batch(beat) == [AskAgain("gap")]


def test_a_new_epoch_asks_again_and_its_snapshot_replaces_all() -> None:
    """Versions of two epochs are never compared."""
    feed = started()
    assert feed.on_batch(batch(1, epoch="f")) == [AskAgain("epoch")]
    snapshot = batch(1, policy(1), NeedSet(scope=P, version=1), full=True, epoch="f")
    (step,) = steps_of(feed.on_batch(snapshot))
    assert step.full
    assert step.fresh == {P}


def test_a_snapshot_older_than_what_was_applied_is_ignored() -> None:
    """An answer that took long does not turn time back."""
    feed = started()
    feed.on_batch(batch(2, change()))
    assert feed.on_batch(batch(1, full=True)) == []


def test_batches_after_a_snapshot_go_on_from_it() -> None:
    """A batch that came before the snapshot it follows is applied after it."""
    feed = started()
    need = NeedSet(scope=P, version=5)
    feed.on_batch(batch(2, need))
    snapshot = batch(2, policy(5), need, full=True)
    assert [s.full for s in steps_of(feed.on_batch(snapshot))] == [True]
    assert len(steps_of(feed.on_batch(batch(3, change())))) == 1


def test_a_scope_no_longer_needed_is_not_subscribed() -> None:
    """Needs decide subscriptions."""
    feed = started()
    assert feed.needed == {P}
    feed.on_batch(batch(2, NeedRemoved(scope=P)))
    assert feed.needed == set()


def test_pieces_of_another_epoch_or_unneeded_scopes_are_dropped() -> None:
    """The stash holds only what a batch can ask for."""
    feed = started()
    assert feed.on_shared(shared(policy(9, previous=1), epoch="old")) == []
    assert feed.on_shared(shared(SetBucket(id=SetId("s:y"), version=4))) == []
    assert feed.on_batch(batch(2, NeedSet(scope=P, version=9))) == []


def test_a_doubt_does_not_swallow_the_steps_before_it() -> None:
    """What the feed counts as handed on is handed on, even when what follows is broken."""
    feed = started()
    feed.on_batch(batch(2, NeedSet(scope=P, version=5)))
    other = Scope("set/s:x")
    bucket = SetBucket(id=SetId("s:x"), version=4)
    feed.on_batch(batch(3, bucket, NeedSet(scope=other, version=4)))
    feed.on_batch(batch(4, NeedSet(scope=other, version=9)))
    feed.on_shared(shared(SetBucket(id=SetId("s:x"), version=9, previous=8)))
    found = feed.on_shared(shared(policy(5, previous=1)))
    assert [one.revision if isinstance(one, Step) else one for one in found] == [
        20,
        30,
        AskAgain(f"missed {other}"),
    ]


def test_a_snapshot_is_handed_on_though_a_batch_after_it_is_broken() -> None:
    """The snapshot is not lost to the doubt about what follows it."""
    feed = started()
    feed.on_batch(batch(2, NeedSet(scope=P, version=5)))
    feed.on_batch(batch(3, NeedSet(scope=P, version=7)))
    feed.on_shared(shared(policy(7, previous=6)))
    found = feed.on_batch(batch(2, policy(5), NeedSet(scope=P, version=5), full=True))
    assert isinstance(found[0], Step)
    assert found[0].full
    assert found[1:] == [AskAgain(f"missed {P}")]


def test_pieces_kept_from_another_epoch_are_forgotten_with_it() -> None:
    """A high version of an epoch that is over neither hides a new piece nor stands in for it."""
    feed = started()
    feed.on_shared(shared(policy(500, previous=3)))
    feed.on_batch(batch(1, policy(3), NeedSet(scope=P, version=3), full=True, epoch="f"))
    feed.on_shared(shared(policy(7, previous=3), epoch="f"))
    (step,) = steps_of(feed.on_batch(batch(2, NeedSet(scope=P, version=7), epoch="f")))
    assert step.updates[0] == policy(7, previous=3)


def test_a_piece_that_jumps_over_the_named_version_does_not_stand_in_for_it() -> None:
    """A batch is not handed on without the piece it names."""
    feed = started()
    feed.on_shared(shared(policy(9, previous=1)))
    assert feed.on_batch(batch(2, NeedSet(scope=P, version=5))) == [AskAgain(f"missed {P}")]


def test_batches_that_come_before_their_snapshot_follow_it() -> None:
    """A snapshot under way costs none of the batches that overtake it."""
    feed = Feed()
    for number in (1, 2, 3):
        assert feed.on_batch(batch(number, change(f"{number}"))) == [AskAgain("epoch")]
    steps = steps_of(feed.on_batch(batch(1, full=True)))
    assert [step.revision for step in steps] == [10, 20, 30]
    assert (feed.number, feed.received) == (3, 30)


def test_a_gap_after_the_snapshot_is_not_closed_by_later_batches() -> None:
    """What came too early is only used without a gap before it."""
    feed = started()
    assert feed.on_batch(batch(4, change("4"))) == [AskAgain("gap")]
    assert len(steps_of(feed.on_batch(batch(2, full=True)))) == 1
    assert feed.on_batch(batch(5, change("5"))) == [AskAgain("gap")]
    steps = steps_of(feed.on_batch(batch(4, full=True)))
    assert [step.revision for step in steps] == [40, 50]
