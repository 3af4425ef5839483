"""Selectors: who is meant, one text per meaning, and no text that hurts."""

import time
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model.selectors import (
    ALL,
    GLOBAL,
    MAX_DEPTH,
    MAX_LABEL,
    MAX_LENGTH,
    MAX_TERMS,
    NAMESPACE_LABEL,
    SelectorError,
    and_,
    canonical,
    mentions_global,
    not_,
    parse,
    prefix_labels,
    requirements,
    selector_id,
)

A = {"a": "x"}
MEANINGS: list[tuple[str, Mapping[str, str], bool]] = [
    ("", {}, True),
    ("  \t", {}, True),
    ("all()", {}, True),
    ("all( \t)", {}, True),
    ("!all()", A, False),
    ("global()", {}, True),
    ("global()", {NAMESPACE_LABEL: "ns"}, False),
    ("global() || projectcalico.org/namespace == 'ns'", {NAMESPACE_LABEL: "ns"}, True),
    # equality, and the absent label
    ("a == 'x'", A, True),
    ("a=='x'", A, True),
    ('a == "x"', A, True),
    ("a == 'y'", A, False),
    ("b == 'x'", A, False),
    ("b == ''", A, False),
    ("a == ''", {"a": ""}, True),
    ("a != 'x'", A, False),
    ("a != 'y'", A, True),
    ("b != 'x'", A, True),
    ("b != ''", A, True),
    # sets
    ("a in {'x', 'y'}", A, True),
    ("a in{'x'}", A, True),
    ("a in {'y'}", A, False),
    ("a in {}", A, False),
    ("a in {'x',}", A, True),
    ("b in {'x'}", A, False),
    ("b in {''}", A, False),
    ("a not in {'x'}", A, False),
    ("a not in {'y'}", A, True),
    ("a not in {}", A, True),
    ("a notin {'y'}", A, True),
    ("a not \t in {'y'}", A, True),
    ("b not in {'x'}", A, True),
    ("b not in {}", A, True),
    # presence
    ("has(a)", A, True),
    ("has( a )", A, True),
    ("has(b)", A, False),
    ("!has(b)", A, True),
    ("has(a)", {"a": ""}, True),
    ("has(projectcalico.org/name-1_x)", {"projectcalico.org/name-1_x": ""}, True),
    # parts of values
    ("a contains 'b'", {"a": "abc"}, True),
    ("a contains ''", {"a": "abc"}, True),
    ("b contains ''", {"a": "abc"}, False),
    ("a contains 'bb'", {"a": "abc"}, False),
    ("a starts with 'ab'", {"a": "abc"}, True),
    ("a startswith 'ab'", {"a": "abc"}, True),
    ("a starts   with 'bc'", {"a": "abc"}, False),
    ("b starts with ''", {"a": "abc"}, False),
    ("a ends with 'bc'", {"a": "abc"}, True),
    ("a endswith 'ab'", {"a": "abc"}, False),
    ("!a ends with 'bc'", {}, True),
    # precedence and negation
    ("has(a) || has(b) && has(c)", {"a": ""}, True),
    ("(has(a) || has(b)) && has(c)", {"a": ""}, False),
    ("has(b) && has(c) || has(a)", {"a": ""}, True),
    ("!has(a) || has(a)", {}, True),
    ("!has(a) && has(b)", {"b": ""}, True),
    ("!(has(a) && has(b))", {"b": ""}, True),
    ("!!has(a)", A, True),
    ("! ! !has(a)", A, False),
    ("!(!(has(a)))", A, True),
    ("!a == 'x'", A, False),
    ("!a == 'x'", {}, True),
    ("!a != 'x'", A, True),
    ("((((has(a)))))", A, True),
    # words of the language as labels, and each quote inside the other
    ("in in {'in'}", {"in": "in"}, True),
    ("not == 'x'", {"not": "x"}, True),
    ("has == 'x'", {"has": "x"}, True),
    ("contains contains 'x'", {"contains": "x"}, True),
    ("all == 'x' && global != 'x'", {"all": "x"}, True),
    ("""a == 'say "x"'""", {"a": 'say "x"'}, True),
    ("""a == "it's" """, {"a": "it's"}, True),
    (r"a == '\'", {"a": "\\"}, True),
    ("a == '&& || ()'", {"a": "&& || ()"}, True),
    ("a == 'ü'", {"a": "ü"}, True),
]


@pytest.mark.parametrize(("text", "labels", "expected"), MEANINGS)
def test_meaning(text: str, labels: Mapping[str, str], expected: bool) -> None:
    """Each operator means what Calico's does, also where the label is absent."""
    assert parse(text).matches(labels) is expected


@pytest.mark.parametrize(("text", "labels", "expected"), MEANINGS)
def test_canonical_text_means_the_same(
    text: str, labels: Mapping[str, str], expected: bool
) -> None:
    """Canonical text parses to the same tree, and is its own canonical text."""
    again = parse(canonical(parse(text)))
    assert again == parse(text)
    assert canonical(again) == canonical(parse(text))
    assert again.matches(labels) is expected


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("a", 2),
        ("a ==", 5),
        ("a == x", 6),
        ("a == 'x", 6),
        ("a = 'x'", 3),
        ("a === 'x'", 5),
        ("== 'x'", 1),
        ("a in 'x'", 6),
        ("a in {'x'", 10),
        ("a in {'x' 'y'}", 11),
        ("a in {,}", 7),
        ("a in {x}", 7),
        ("a inside {'x'}", 3),
        ("a not 'x'", 3),
        ("a starts 'x'", 3),
        ("has()", 4),
        ("has(a", 4),
        ("has(a b)", 4),
        ("has (a)", 5),
        ("has('a')", 4),
        ("all(", 4),
        ("all(a)", 4),
        ("ALL()", 4),
        ("(has(a)", 1),
        ("has(b) && (has(a)", 11),
        ("has(a))", 7),
        ("()", 2),
        ("!", 2),
        ("has(a) has(b)", 8),
        ("has(a) & has(b)", 8),
        ("has(a) &&", 10),
        ("has(a) && || has(b)", 11),
        ("&& has(a)", 1),
        ("has(a) ||", 10),
        ("has(a)\n&& has(b)", 7),
        ("a matches 'x'", 3),
        ("ä == 'x'", 1),
        ("a == '\ud800'", 7),
        ("a == 'x'\0", 9),
    ],
)
def test_faults_are_located(text: str, position: int) -> None:
    """What is not a selector is refused, with the place and a sentence."""
    with pytest.raises(SelectorError, match=rf"^Selector is wrong at character {position}: .*\.$"):
        parse(text)


def test_caps() -> None:
    """Length, depth, conditions and labels are capped; at the cap all is well."""
    parse("(" * MAX_DEPTH + "has(a)" + ")" * MAX_DEPTH)
    parse(" || ".join(["has(a)"] * MAX_TERMS))
    parse(f"has({'a' * MAX_LABEL})")
    parse("has(a)" + " " * (MAX_LENGTH - 6))
    for text in (
        "(" * (MAX_DEPTH + 1) + "has(a)" + ")" * (MAX_DEPTH + 1),
        " || ".join(["has(a)"] * (MAX_TERMS + 1)),
        f"has({'a' * (MAX_LABEL + 1)})",
        f"{'a' * (MAX_LABEL + 1)} == 'x'",
        "has(a)" + " " * MAX_LENGTH,
        "(" * 10**6,
        "!" * 10**6,
    ):
        with pytest.raises(SelectorError):
            parse(text)


def test_cost_is_linear() -> None:
    """No text within the cap is slow to parse."""
    worst = [
        "!" * 4000,
        "(" * 4000,
        " " * 4000 + "x",
        "a in {" + "'x'," * 1000,
        "has(" + " " * 4000,
    ]
    for text in worst:
        started = time.perf_counter()
        with pytest.raises(SelectorError):
            parse(text)
        assert time.perf_counter() - started < 0.25


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "all()"),
        ("a=='x'", 'a == "x"'),
        ("a in {'y','x','y'}", 'a in {"x", "y"}'),
        ("a in {'x'}", 'a == "x"'),
        ("a not in {'x'}", 'a != "x"'),
        ("!(a == 'x')", 'a != "x"'),
        ("!a != 'x'", 'a == "x"'),
        ("a notin {}", "a not in {}"),
        ("!!has( a )", "has(a)"),
        ("""a == '"'""", """a == '"'"""),
        ("has(a)&&has(b)||has(c)", "((has(a) && has(b)) || has(c))"),
        ("!(has(a)||has(b))", "!(has(a) || has(b))"),
        ("a startswith 'x'", 'a starts with "x"'),
        ("((has(a)))", "has(a)"),
    ],
)
def test_canonical_text(text: str, expected: str) -> None:
    """One meaning is written in one way: sorted sets, double quotes, groups in parentheses."""
    assert canonical(parse(text)) == expected


def test_identity_is_of_the_meaning() -> None:
    """Spellings of one selector share an id; ids never change between versions."""
    assert selector_id(parse("a in {'y','x'}")) == selector_id(parse('a in {"x","y"}'))
    assert selector_id(parse("a == 'x'")) != selector_id(parse("a != 'x'"))
    assert selector_id(ALL) == "s:ewudctcv7zrelfokqc6bu6un"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("global()", ()),
        ("a == 'x'", (("a", frozenset("x")),)),
        ("a != 'x'", ()),
        ("a in {'x','y'}", (("a", frozenset("xy")),)),
        ("a in {}", (("a", frozenset()),)),
        ("has(a)", (("a", None),)),
        ("a contains 'x'", (("a", None),)),
        ("!has(a)", ()),
        ("has(b) && a == 'x'", (("a", frozenset("x")), ("b", None))),
        ("has(a) && a == 'x'", (("a", frozenset("x")),)),
        ("a in {'x','y'} && a in {'y','z'}", (("a", frozenset("y")),)),
        ("a == 'x' || a == 'y'", (("a", frozenset("xy")),)),
        ("a == 'x' || has(a)", (("a", None),)),
        ("a == 'x' || b == 'x'", ()),
        ("(a == 'x' && has(b)) || (a == 'y' && has(c))", (("a", frozenset("xy")),)),
    ],
)
def test_requirements(text: str, expected: object) -> None:
    """What must hold for a match is read off: for the index."""
    assert requirements(parse(text)) == expected


def test_combining() -> None:
    """Conjunctions stay flat and drop `all()`; two negations are none."""
    one, other, third = parse("has(a)"), parse("has(b)"), parse("has(c)")
    assert and_(ALL, one) == one
    assert and_() == and_(ALL, ALL) == ALL
    assert and_(and_(one, other), third) == and_(one, other, third)
    assert not_(not_(one)) == one
    assert mentions_global(and_(one, not_(GLOBAL)))
    assert not mentions_global(one)


def test_prefixed_labels() -> None:
    """Every condition asks for the prefixed label; `all()` and `global()` ask for none."""
    text = "has(a) && !(b == 'x' || c contains 'y') || all() && global()"
    prefixed = prefix_labels(parse(text), "pcns.")
    expected = "has(pcns.a) && !(pcns.b == 'x' || pcns.c contains 'y') || all() && global()"
    assert prefixed == parse(expected)


# ---------------------------------------------------------------- laws

LABELS = st.sampled_from(["a", "b", "in", "projectcalico.org/x"])
VALUES = st.sampled_from(["", "x", "y", "xy", "x'y", 'x"y'])
BLANK = st.sampled_from(["", " ", "\t "])
LABEL_MAPS = st.dictionaries(LABELS, VALUES)

#: A text, and an evaluation of it that shares no code with the parser.
Case = tuple[str, Callable[[Mapping[str, str]], bool]]


def _quote(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


@st.composite
def _conditions(draw: st.DrawFn) -> Case:
    label, value, gap = draw(LABELS), draw(VALUES), draw(BLANK)
    values = draw(st.lists(VALUES, max_size=3))
    listed = "{" + f"{gap},{gap}".join(map(_quote, values)) + "}"
    quoted = _quote(value)
    options: list[Case] = [
        ("all()", lambda _: True),
        (f"has({gap}{label}{gap})", lambda m: label in m),
        (f"{label}{gap}=={gap}{quoted}", lambda m: label in m and m[label] == value),
        (f"{label}{gap}!={gap}{quoted}", lambda m: label not in m or m[label] != value),
        (f"{label} in{gap}{listed}", lambda m: label in m and m[label] in values),
        (f"{label} not{gap}in{listed}", lambda m: label not in m or m[label] not in values),
        (f"{label} contains{gap}{quoted}", lambda m: label in m and value in m[label]),
        (f"{label} starts{gap}with{quoted}", lambda m: label in m and m[label].startswith(value)),
        (f"{label} ends{gap}with{gap}{quoted}", lambda m: label in m and m[label].endswith(value)),
    ]
    return draw(st.sampled_from(options))


def _extend(children: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def negate(case: Case) -> Case:
        return f"!({case[0]})", lambda m: not case[1](m)

    def both(cases: list[Case]) -> Case:
        return " && ".join(f"({t})" for t, _ in cases), lambda m: all(f(m) for _, f in cases)

    def either(cases: list[Case]) -> Case:
        return "||".join(f"({t})" for t, _ in cases), lambda m: any(f(m) for _, f in cases)

    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(children.map(negate), several.map(both), several.map(either))


CASES = st.recursive(_conditions(), _extend, max_leaves=8)


@given(CASES, LABEL_MAPS)
def test_any_selector_means_what_it_says(case: Case, labels: dict[str, str]) -> None:
    """The parsed tree, its canonical text and its opposite agree with a plain evaluation."""
    text, means = case
    parsed = parse(text)
    assert parsed.matches(labels) is means(labels)
    assert not_(parsed).matches(labels) is not means(labels)
    assert parse(canonical(parsed)) == parsed


@given(CASES, CASES, LABEL_MAPS)
def test_a_conjunction_means_both(one: Case, other: Case, labels: dict[str, str]) -> None:
    """`and_` means those that both mean."""
    both = and_(parse(one[0]), parse(other[0]))
    assert both.matches(labels) is (one[1](labels) and other[1](labels))


@given(CASES, LABEL_MAPS)
def test_requirements_are_sound(case: Case, labels: dict[str, str]) -> None:
    """Who is meant passes every requirement."""
    parsed = parse(case[0])
    if parsed.matches(labels):
        for label, values in requirements(parsed):
            assert label in labels
            assert values is None or labels[label] in values


@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                ["a", "'x'", '"', "(", ")", "!", "&&", "||", "==", "in", "not in", "{", "}", ",",
                 "has(", "all()", "global()", "contains", "starts with", " ", "\t", "\n", "\ud800"]
            ),
            max_size=40,
        ).map("".join),
    )
)  # fmt: skip
def test_no_text_crashes_the_parser(text: str) -> None:
    """Any text is a selector or a `SelectorError`, whose position lies in the text or at its end."""
    try:
        parsed = parse(text)
    except SelectorError as error:
        position = error.position
    else:
        assert canonical(parse(canonical(parsed))) == canonical(parsed)
        return
    assert 1 <= position <= len(text) + 1
