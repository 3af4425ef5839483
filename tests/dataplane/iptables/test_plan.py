import copy

from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.parse import parse_save
from hopwall_dataplane.iptables.plan import Plan, plan_table
from hopwall_dataplane.iptables.table import (
    GUARD,
    Chain,
    Jump,
    TableState,
    chain_hashes,
    jump_hash,
    with_hash,
)
from hopwall_dataplane.iptables.transaction import record
from tests.support.fake_iptables import FakeTables

FRONT = ("hw-",)
NAMES = [f"hw-{letter}" for letter in "abcdef"]
BODIES = st.sampled_from([f"-p tcp --dport {n} -j ACCEPT" for n in range(4)] + ["-j DROP"])
ALL_JUMPS = [
    Jump("FORWARD", "hw-a"),
    Jump("FORWARD", "hw-b", match="-i tap+"),
    Jump("FORWARD", "hw-c", where="last"),
    Jump("FORWARD", "hw-d", match="-o tap+", where="last"),
    Jump("INPUT", "hw-a"),
]
OURS = st.sampled_from([*ALL_JUMPS, Jump("FORWARD", "hw-a", match="-i old+")])
Desired = tuple[dict[str, Chain], tuple[Jump, ...]]


@st.composite
def desired(draw: st.DrawFn) -> Desired:
    """Draw chains, and jumps only to those."""
    chains = draw(
        st.dictionaries(st.sampled_from(NAMES), st.lists(BODIES, max_size=4).map(tuple), max_size=6)
    )
    jumps = draw(st.lists(st.sampled_from(ALL_JUMPS), unique=True))
    return chains, tuple(jump for jump in jumps if jump.target in chains)


@st.composite
def kernels(draw: st.DrawFn) -> FakeTables:
    """Draw any table: chains of ours whole or damaged, and kernel chains with lines in any order."""
    fake = FakeTables()
    lines = [f":{name} - [0:0]" for name in NAMES]
    for name, bodies in draw(desired())[0].items():
        lines += [f"-A {name} {body}" for body in bodies]
    foreign = st.integers(0, 5).map(lambda n: f"-s 10.9.0.{n}/32 -j ACCEPT")
    ours = OURS.map(lambda jump: with_hash(jump.body, jump_hash(jump)))
    for builtin in ("FORWARD", "INPUT"):
        held = draw(st.lists(st.one_of(foreign, ours), max_size=8))
        lines += [f"-A {builtin} {line}" for line in held]
    fake.restore("\n".join(("*filter", *lines, "COMMIT")))
    return fake


def state(fake: FakeTables) -> TableState:
    """Read the filter table back."""
    return parse_save(fake.save("filter"))


def turn(fake: FakeTables, want: Desired, actual: TableState | None = None) -> None:
    """Plan once and apply both halves."""
    actual = actual or state(fake)
    planned = plan_table("filter", want[0], want[1], actual)
    for tx in (planned.now, planned.later):
        if tx is not None:
            fake.restore(tx.text)
            record(actual, tx)


def foreign_lines(fake: FakeTables) -> list[str]:
    """List the lines of kernel chains that are not ours."""
    return [
        line for line in fake.save("filter").splitlines() if " 10.9" in line or "-s 10.9" in line
    ]


@given(fake=kernels(), want=desired())
def test_any_actual_becomes_desired_in_one_turn(fake: FakeTables, want: Desired) -> None:
    """From any table one turn leads to desired, foreign lines keep their order, and no second is due."""
    before = foreign_lines(fake)
    actual = state(fake)
    turn(fake, want, actual)
    assert plan_table("filter", *want, state(fake)) == Plan()
    assert foreign_lines(fake) == before
    assert state(fake).chains.keys() == want[0].keys()
    assert plan_table("filter", *want, actual) == Plan()
    assert actual.chains == state(fake).chains


@given(fake=kernels(), want=desired())
def test_jumps_stand_once_and_in_place(fake: FakeTables, want: Desired) -> None:
    """After a turn each jump stands once: the first ones at the head, the last ones at the end."""
    turn(fake, want)
    for builtin in ("FORWARD", "INPUT"):
        wanted = [jump for jump in want[1] if jump.builtin == builtin]
        firsts = [jump_hash(jump) for jump in wanted if jump.where == "first"]
        lasts = [jump_hash(jump) for jump in wanted if jump.where == "last"]
        hashes = [line.hash for line in state(fake).kernel[builtin]]
        n_foreign = len(hashes) - len(wanted)
        assert hashes == [*firsts, *[None] * n_foreign, *lasts]


@given(first=kernels(), path=st.lists(desired(), max_size=4), want=desired())
def test_path_does_not_matter(first: FakeTables, path: list[Desired], want: Desired) -> None:
    """Whatever was desired in between, the table ends the same as by the straight way."""
    second = copy.deepcopy(first)
    turn(first, want)
    for step in path:
        turn(second, step)
    turn(second, want)
    assert state(first) == state(second)


@given(fake=kernels(), want=desired(), dirty=st.sets(st.sampled_from([*NAMES, "FORWARD", "INPUT"])))
def test_dirty_compares_only_the_named(fake: FakeTables, want: Desired, dirty: set[str]) -> None:
    """With dirty names the plan is the full plan cut down to these."""
    full = plan_table("filter", *want, state(fake))
    some = plan_table("filter", *want, state(fake), dirty=dirty)
    for whole, part in ((full.now, some.now), (full.later, some.later)):
        expected = whole.subset(dirty) if whole is not None else None
        if expected is None or not expected.chains:
            assert part is None
        else:
            assert part == expected


@given(fake=kernels(), path=st.lists(desired(), max_size=3), want=desired())
def test_in_front_nothing_is_freed_and_packets_meet_what_is_wanted(
    fake: FakeTables, path: list[Desired], want: Desired
) -> None:
    """Whole chains of ours are replaced without a line taken out; what stands behind the guard is told."""
    actual = state(fake)
    for step in path:
        turn(fake, step, actual)
    before = dict(actual.chains)
    planned = plan_table("filter", *want, actual, in_front=FRONT)
    if planned.now is not None:
        fake.restore(planned.now.text)
        record(actual, planned.now)
    assert state(fake).chains == actual.chains
    for name, bodies in want[0].items():
        lines = [x.partition(" -m comment")[0] for x in fake.tables["filter"][name].lines]
        had = before.get(name)
        assert tuple(lines[: len(bodies)]) == bodies
        assert lines[len(bodies) : len(bodies) + 1] in ([], [GUARD])
        replaced = bool(had) and None not in (had or ()) and had != chain_hashes(name, bodies)
        assert (name in planned.dead) == (len(lines) > len(bodies)) == replaced
        if replaced:
            assert actual.chains[name][len(bodies) + 1 :] == had
    again = plan_table("filter", *want, actual, in_front=FRONT)
    assert (again.now, again.dead) == (None, planned.dead)


def test_a_long_chain_is_written_plainly() -> None:
    """Where dead lines would cost more than waiting, there are none."""
    fake = FakeTables()
    turn(fake, ({"hw-a": ("-j DROP",)}, ()))
    for n_lines, is_dead in ((64, True), (65, False)):
        bodies = tuple(f"-p tcp --dport {n} -j ACCEPT" for n in range(n_lines))
        planned = plan_table("filter", {"hw-a": bodies}, (), state(fake), in_front=FRONT)
        assert planned.now is not None
        assert (bool(planned.dead), planned.now.frees) == (is_dead, not is_dead)


def test_whole_text_of_a_first_turn() -> None:
    """The text is what an operator would write by hand, in a fixed order."""
    planned = plan_table(
        "filter",
        {"hw-b": ("-j DROP",), "hw-a": ("-i tap0 -j hw-b", "-j RETURN"), "hw-e": ()},
        (Jump("FORWARD", "hw-a"), Jump("FORWARD", "hw-e", match="-i x"), Jump("INPUT", "hw-a")),
        TableState(),
    )
    assert planned.later is None
    assert planned.now is not None
    text = "\n".join(line.partition(" -m comment")[0] for line in planned.now.text.splitlines())
    assert text == (
        "*filter\n:hw-a - [0:0]\n:hw-b - [0:0]\n:hw-e - [0:0]\n"
        "-A hw-a -i tap0 -j hw-b\n-A hw-a -j RETURN\n-A hw-b -j DROP\n"
        "-I FORWARD 1 -i x -j hw-e\n-I FORWARD 1 -j hw-a\n-I INPUT 1 -j hw-a\nCOMMIT"
    )


def test_right_group_is_left_alone_when_the_other_is_wrong() -> None:
    """A missing last jump does not take the first one out."""
    fake = FakeTables()
    want: Desired = ({"hw-a": (), "hw-c": ()}, (ALL_JUMPS[0], ALL_JUMPS[2]))
    turn(fake, want)
    fake.restore("*filter\n-A FORWARD -j ACCEPT\nCOMMIT")
    planned = plan_table("filter", *want, state(fake))
    assert planned.now is not None
    verbs = [line[:2] for line in planned.now.text.splitlines()]
    assert verbs == ["*f", "-D", "-A", "CO"]
