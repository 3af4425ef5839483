"""Counters per identity."""

from hopwall_dataplane.iptables.counters import Count, read_counts, together

SAVED = """*raw
:PREROUTING ACCEPT [9:900]
:hw-antispoof - [0:0]
[7:700] -A hw-antispoof -m comment --comment "hw:abcdefghijklmno0:aaaaaaaaaa" -j DROP
COMMIT
*filter
:FORWARD ACCEPT [9:900]
:hw-pe-x - [0:0]
[5:500] -A FORWARD -m comment --comment "hw:abcdefghijklmno1" -j hw-FORWARD
[4:400] -A hw-pe-x -p tcp -j NFLOG -m comment --comment "hw:abcdefghijklmno2:bbbbbbbbbb:also"
[3:300] -A hw-pe-x -p tcp -m comment --comment "hw:abcdefghijklmno3:bbbbbbbbbb" -j DROP
[2:200] -A hw-pe-x -p udp -m comment --comment hw:abcdefghijklmno4:bbbbbbbbbb -j DROP
[6:600] -A hw-pe-x -m comment --comment "hw:abcdefghijklmno5:cccccccccc:also" -j MARK
[1:100] -A DOCKER -m comment --comment "hw:abcdefghijklmno6:dddddddddd" -j RETURN
-A hw-pe-x -m comment --comment "hw:abcdefghijklmno7:eeeeeeeeee" -j DROP
COMMIT
"""


def test_the_lines_of_an_identity_are_added_up_but_for_those_that_go_along() -> None:
    """Over all tables; a foreign chain's line, and one without counters, are not ours to count."""
    assert read_counts(SAVED) == {
        "aaaaaaaaaa": Count(7, 700),
        "bbbbbbbbbb": Count(5, 500),
        "cccccccccc": Count(),
    }


def test_what_was_replaced_counts_no_more() -> None:
    """Lines behind a guard are met by nobody; those of other chains and tables go on."""
    guard = "[2:200] -A hw-pe-x -m comment --comment {}hw:abcdefghijklmno8{} -j RETURN\n"
    for quote in ('"', ""):
        more = SAVED.replace(
            "[2:200] -A hw-pe-x", guard.format(quote, quote) + "[2:200] -A hw-pe-x"
        )
        assert read_counts(more) == {
            "aaaaaaaaaa": Count(7, 700),
            "bbbbbbbbbb": Count(3, 300),
        }
        both = more + SAVED.replace("*filter", "*mangle")
        assert read_counts(both)["bbbbbbbbbb"] == Count(8, 800)


def test_families_are_added_up() -> None:
    """A rule is one, whatever the family of the packets it met."""
    one, other = {"a": Count(1, 10), "b": Count(2, 20)}, {"a": Count(3, 30)}
    assert together([one, other]) == {"a": Count(4, 40), "b": Count(2, 20)}
    assert together([]) == {}
