"""The label index against asking every selector about everyone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_calc import label_index
from hopwall_calc.label_index import LabelIndex
from hopwall_model.resources import Key
from hopwall_model.selectors import NAMESPACE_LABEL, Selector, and_, not_, parse

SELECTORS = (
    "",
    "a == '1'",
    "a != '1'",
    "a in {'1', '2'}",
    "a not in {'1'}",
    "has(a)",
    "!has(b) && a == '1'",
    "a == '1' || b == '1'",
    "(a == '1' && b == '2') || (a == '2' && b == '1')",
    "b contains '2'",
    "b starts with '1' && has(a)",
    "!(a == '1' || b ends with '2')",
    "global()",
    f"has({NAMESPACE_LABEL})",
    "a in {}",
)

label_sets = st.dictionaries(
    st.sampled_from(["a", "b", NAMESPACE_LABEL]), st.sampled_from(["1", "2", "12"])
)
items = st.dictionaries(
    st.integers(0, 12).map(lambda i: Key("WorkloadEndpoint", "d", str(i))),
    st.none() | label_sets,
    max_size=8,
)
leaves = st.sampled_from(SELECTORS).map(parse)
trees = st.recursive(
    leaves, lambda inner: st.builds(and_, inner, inner) | inner.map(not_), max_leaves=4
)
selectors = st.dictionaries(st.integers(0, 9), st.none() | trees, max_size=4)


@pytest.mark.parametrize("bulk", [0, 256])
@given(steps=st.lists(st.tuples(items, selectors), max_size=8))
def test_index_is_what_asking_everyone_says(
    bulk: int, steps: list[tuple[dict[Key, dict[str, str] | None], dict[int, Selector | None]]]
) -> None:
    """After every step the index, and the changes it told, are what the dumb question says."""
    original, label_index.BULK_ITEMS = label_index.BULK_ITEMS, bulk
    try:
        _walk(steps)
    finally:
        label_index.BULK_ITEMS = original


def _walk(
    steps: list[tuple[dict[Key, dict[str, str] | None], dict[int, Selector | None]]],
) -> None:
    index: LabelIndex[int] = LabelIndex()
    labels: dict[Key, dict[str, str]] = {}
    wanted: dict[int, Selector] = {}
    told: dict[int, set[Key]] = {}
    for changed_items, changed_selectors in steps:
        deltas = index.apply(changed_items, changed_selectors)
        for key, value in changed_items.items():
            labels.pop(key, None)
            if value is not None:
                labels[key] = value
        for name, selector in changed_selectors.items():
            wanted.pop(name, None)
            if selector is not None:
                wanted[name] = selector
            else:
                told.pop(name, None)
        for name, delta in deltas.items():
            known = told.setdefault(name, set())
            assert len(delta.left) == len(set(delta.left))
            known.difference_update(delta.left)
            known.update(delta.joined)
            if name in changed_selectors:
                # It may have joined by the old selector and left by the new one: on both sides.
                both = set(delta.left) & set(delta.joined)
                known.difference_update(both - set(index.items_of(name)))
        for name, selector in wanted.items():
            meant = {key for key, value in labels.items() if selector.matches(value)}
            assert set(index.items_of(name)) == meant
            assert told.get(name, set()) == meant
        for key, value in labels.items():
            assert sorted(index.selectors_of(key)) == sorted(
                name for name, selector in wanted.items() if selector.matches(value)
            )


def test_an_item_asks_only_selectors_it_could_meet() -> None:
    """A relabelled item does not visit selectors that require another value."""
    index: LabelIndex[int] = LabelIndex()
    key = Key("WorkloadEndpoint", "d", "x")
    index.apply({}, {i: parse(f"app == 'a{i}' && zone == 'z'") for i in range(100)})
    index.apply({key: {"app": "a7", "zone": "y"}}, {})
    assert list(index._candidates({"app": "a7", "zone": "y"})) in ([7], [])
