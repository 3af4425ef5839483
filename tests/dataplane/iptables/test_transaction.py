import pytest

from hopwall_dataplane.iptables.table import FOREIGN, TableState, chain_hashes
from hopwall_dataplane.iptables.transaction import ChainWrite, KernelEdit, Transaction, record

TX = Transaction(
    "filter",
    (
        ChainWrite("hw-a", ("-j DROP", "-j ACCEPT"), new=True),
        ChainWrite("hw-b", ("-j DROP",), new=False),
    ),
    (KernelEdit("INPUT", ("-I INPUT 1 -j hw-a",), (FOREIGN,)),),
    ("hw-c",),
)


def test_lines_know_their_chain() -> None:
    """Each line of the text names its chain; *table, COMMIT and what lies outside name none."""
    owners = [TX.chain_at_line(n) for n in range(TX.n_lines + 2)]
    assert owners == [
        None, None, "hw-a", "hw-b", "hw-c", "hw-a", "hw-a", "hw-b", "INPUT", "hw-c", None, None
    ]  # fmt: skip
    assert TX.text.splitlines() == [TX.line(n) for n in range(1, TX.n_lines + 1)]
    assert TX.line(0) is None
    assert TX.text.endswith("-X hw-c\nCOMMIT\n")
    assert TX.chains == {"hw-a", "hw-b", "hw-c", "INPUT"}


def test_subset_keeps_what_it_is_asked_for() -> None:
    """A subset is the same transaction with other chains left out."""
    assert TX.subset(TX.chains) == TX
    assert TX.subset({"hw-b"}).text == (
        "*filter\n:hw-b - [0:0]\n"
        f'-A hw-b -j DROP -m comment --comment "hw:{chain_hashes("hw-b", ["-j DROP"])[0]}"\nCOMMIT\n'
    )
    assert TX.subset(()).text == "*filter\nCOMMIT\n"


def test_bodies_can_be_replaced() -> None:
    """Replacing a body changes that chain alone; names that are not written are passed over."""
    other = TX.with_bodies({"hw-a": ("-j DROP",), "hw-z": ()})
    assert other.subset({"hw-b", "hw-c", "INPUT"}) == TX.subset({"hw-b", "hw-c", "INPUT"})
    assert other.writes[0] == ChainWrite("hw-a", ("-j DROP",), new=True)


def test_only_what_frees_lines_is_followed_by_a_wait() -> None:
    """Rewrites and removals free lines; new chains and inserted jumps do not."""
    assert TX.subset({"hw-b"}).frees
    assert TX.subset({"hw-c"}).frees
    assert not TX.subset({"hw-a", "INPUT"}).frees
    assert Transaction("nat", edits=(KernelEdit("INPUT", ("-D INPUT -j X",), ()),)).frees


def test_record_changes_what_the_transaction_did() -> None:
    """Actual after a transaction holds its chains and kernel lines, and not what it removed."""
    actual = TableState({"hw-c": (), "hw-d": (None,)}, {"INPUT": ()})
    record(actual, TX)
    assert actual.chains == {
        "hw-a": chain_hashes("hw-a", ["-j DROP", "-j ACCEPT"]),
        "hw-b": chain_hashes("hw-b", ["-j DROP"]),
        "hw-d": (None,),
    }
    assert actual.kernel == {"INPUT": (FOREIGN,)}


def test_second_line_in_a_body_is_refused() -> None:
    """Text that would be a command of its own never gets into a transaction."""
    with pytest.raises(ValueError, match="hw-a"):
        ChainWrite("hw-a", ("-j DROP\n-F INPUT",), new=True)
