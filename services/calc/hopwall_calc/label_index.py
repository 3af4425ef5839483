"""Which items a selector means, kept up to date from both sides: the only user of roaring bitmaps.

An inverted index: each `label=value` has the bitmap of the items that bear it. A selector is evaluated
by combining bitmaps; a changed item visits only the selectors that its labels could satisfy.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from pyroaring import BitMap

from hopwall_model.resources import Key
from hopwall_model.selectors import (
    NAMESPACE_LABEL,
    All,
    And,
    Global,
    Has,
    In,
    Labels,
    Not,
    Or,
    Selector,
    Text,
    requirements,
)

S = TypeVar("S")
#: Above this many changed items at once, evaluating every selector by bitmaps is cheaper.
BULK_ITEMS = 256


class Delta:
    """The items that one selector has begun and ceased to mean."""

    __slots__ = ("joined", "left")

    def __init__(self) -> None:
        self.joined: list[Key] = []
        self.left: list[Key] = []


class LabelIndex(Generic[S]):
    """Items with labels on one side, selectors with names of type S on the other.

    Cost: one item O(selectors that require one of its labels); one selector O(bitmaps it names).
    """

    def __init__(self) -> None:
        self._keys: list[Key | None] = []
        self._free: list[int] = []
        self._number: dict[Key, int] = {}
        self._labels: dict[Key, Labels] = {}
        self._everyone: BitMap = BitMap()
        self._bearers: dict[str, dict[str, BitMap]] = {}
        self._selectors: dict[S, Selector] = {}
        self._meant: dict[S, BitMap] = {}
        #: Label → value, or None for any value → the selectors to ask of its bearers.
        self._to_ask: dict[str, dict[str | None, dict[S, None]]] = {}
        #: The selectors to ask of everyone.
        self._ask_always: dict[S, None] = {}
        #: Selector → where it stands in `_to_ask`; nowhere: it is asked always.
        self._anchors: dict[S, tuple[tuple[str, str | None], ...]] = {}

    # ------------------------------------------------------------ questions

    def __contains__(self, name: S) -> bool:
        return name in self._selectors

    def n_meant(self, name: S) -> int:
        """Return how many items a selector means."""
        return len(self._meant[name])

    def items_of(self, name: S) -> list[Key]:
        """Return the items that a selector means."""
        return self._keys_of(self._meant.get(name, BitMap()))

    def selectors_of(self, key: Key) -> list[S]:
        """Return the selectors that mean an item."""
        labels = self._labels.get(key)
        if labels is None:
            return []
        number = self._number[key]
        return [name for name in self._candidates(labels) if number in self._meant[name]]

    # ------------------------------------------------------------ changes

    def apply(
        self,
        items: Mapping[Key, Labels | None],
        selectors: Mapping[S, Selector | None],
    ) -> dict[S, Delta]:
        """Take in changed items, then changed selectors (None: gone); return what that changed.

        A selector that is gone is not in the answer. An item that is gone has left. Where a name got
        another selector in the same call, an item may be on both sides: ask `items_of`.
        """
        deltas: dict[S, Delta] = {}
        if len(items) > BULK_ITEMS:
            self._apply_in_bulk(items, deltas)
        else:
            for key, labels in items.items():
                self._apply_item(key, labels, deltas)
        for name, selector in selectors.items():
            if selector is None:
                self._drop_selector(name)
                deltas.pop(name, None)
            else:
                self._set_selector(name, selector, deltas)
        return deltas

    def _apply_item(self, key: Key, labels: Labels | None, deltas: dict[S, Delta]) -> None:
        before = self.selectors_of(key)
        if labels is None:
            self._record(before, key, deltas, joined=False)
            if key in self._number:
                number = self._number[key]
                for name in before:
                    self._meant[name].discard(number)
                self._drop_item(key)
            return
        number = self._set_item(key, labels)
        candidates = self._candidates(labels)
        after = {name: None for name in candidates if self._selectors[name].matches(labels)}
        gone = [name for name in before if name not in after]
        held = set(before)
        new = [name for name in after if name not in held]
        for name in gone:
            self._meant[name].discard(number)
        for name in new:
            self._meant[name].add(number)
        self._record(gone, key, deltas, joined=False)
        self._record(new, key, deltas, joined=True)

    @staticmethod
    def _record(names: Iterable[S], key: Key, deltas: dict[S, Delta], *, joined: bool) -> None:
        for name in names:
            delta = deltas.setdefault(name, Delta())
            (delta.joined if joined else delta.left).append(key)

    def _apply_in_bulk(self, items: Mapping[Key, Labels | None], deltas: dict[S, Delta]) -> None:
        gone = [key for key, labels in items.items() if labels is None and key in self._number]
        leaving = BitMap(self._number[key] for key in gone)
        for name, meant in self._meant.items():
            self._record_numbers(name, meant & leaving, deltas, joined=False)
            meant.difference_update(leaving)
        for key in gone:
            self._drop_item(key)
        for key, labels in items.items():
            if labels is not None:
                self._set_item(key, labels)
        for name, selector in list(self._selectors.items()):
            # The old anchors were chosen by the old sizes of the bitmaps.
            self._drop_questions(name)
            self._evaluate(name, selector, deltas)

    def _set_selector(self, name: S, selector: Selector, deltas: dict[S, Delta]) -> None:
        if self._selectors.get(name) == selector:
            return
        self._drop_questions(name)
        self._selectors[name] = selector
        self._meant.setdefault(name, BitMap())
        self._evaluate(name, selector, deltas)

    def _evaluate(self, name: S, selector: Selector, deltas: dict[S, Delta]) -> None:
        self._add_questions(name, selector)
        before, after = self._meant[name], BitMap(self._bitmap(selector))
        if before != after:
            self._record_numbers(name, before - after, deltas, joined=False)
            self._record_numbers(name, after - before, deltas, joined=True)
            self._meant[name] = after

    def _record_numbers(
        self, name: S, numbers: BitMap, deltas: dict[S, Delta], *, joined: bool
    ) -> None:
        if numbers:
            delta = deltas.setdefault(name, Delta())
            (delta.joined if joined else delta.left).extend(self._keys_of(numbers))

    def _drop_selector(self, name: S) -> None:
        if name in self._selectors:
            self._drop_questions(name)
            del self._selectors[name]
            del self._meant[name]

    # ------------------------------------------------------------ which selectors to ask

    def _add_questions(self, name: S, selector: Selector) -> None:
        anchors = self._anchor(selector)
        if anchors is None:
            self._ask_always[name] = None
            return
        self._anchors[name] = anchors
        for label, value in anchors:
            self._to_ask.setdefault(label, {}).setdefault(value, {})[name] = None

    def _drop_questions(self, name: S) -> None:
        self._ask_always.pop(name, None)
        for label, value in self._anchors.pop(name, ()):
            by_value = self._to_ask[label]
            del by_value[value][name]
            if not by_value[value]:
                del by_value[value]
                if not by_value:
                    del self._to_ask[label]

    def _anchor(self, selector: Selector) -> tuple[tuple[str, str | None], ...] | None:
        """Return the requirement that the fewest items meet, as the labels that meet it."""
        best: tuple[tuple[str, str | None], ...] | None = None
        fewest = float("inf")
        for label, values in requirements(selector):
            bearers = self._bearers.get(label, {})
            wanted = bearers if values is None else values
            n_items = sum(len(bearers[value]) for value in wanted if value in bearers)
            # At equal counts a few values are better than any value.
            weight = n_items + (0.5 if values is None else 0.0)
            if weight < fewest:
                fewest = weight
                best = ((label, None),) if values is None else tuple((label, v) for v in values)
        return best

    def _candidates(self, labels: Labels) -> dict[S, None]:
        found = dict(self._ask_always)
        for label, value in labels.items():
            by_value = self._to_ask.get(label)
            if by_value is not None:
                found.update(by_value.get(value, {}))
                found.update(by_value.get(None, {}))
        return found

    # ------------------------------------------------------------ items and their bitmaps

    def _set_item(self, key: Key, labels: Labels) -> int:
        number = self._number.get(key)
        if number is None:
            number = self._free.pop() if self._free else len(self._keys)
            if number == len(self._keys):
                self._keys.append(key)
            else:
                self._keys[number] = key
            self._number[key] = number
            self._everyone.add(number)
        else:
            self._drop_bearer(number, self._labels[key])
        self._labels[key] = labels
        for label, value in labels.items():
            bearers = self._bearers.setdefault(label, {})
            bitmap = bearers.get(value)
            if bitmap is None:
                bitmap = bearers[value] = BitMap()
            bitmap.add(number)
        return number

    def _drop_item(self, key: Key) -> None:
        number = self._number.pop(key)
        self._drop_bearer(number, self._labels.pop(key))
        self._everyone.discard(number)
        self._keys[number] = None
        self._free.append(number)

    def _drop_bearer(self, number: int, labels: Labels) -> None:
        for label, value in labels.items():
            bearers = self._bearers[label]
            bitmap = bearers[value]
            bitmap.discard(number)
            if not bitmap:
                del bearers[value]
                if not bearers:
                    del self._bearers[label]

    def _keys_of(self, numbers: BitMap) -> list[Key]:
        return [key for number in numbers if (key := self._keys[number]) is not None]

    # ------------------------------------------------------------ evaluation

    def _bitmap(self, selector: Selector) -> BitMap:
        """Return the items a selector means. May be one of the index's own: do not change it."""
        match selector:
            case In(label, values):
                bearers = self._bearers.get(label, {})
                return _union(bearers[value] for value in values if value in bearers)
            case Has(label):
                return self._having(label)
            case Global():
                return self._everyone - self._having(NAMESPACE_LABEL)
            case Text(label):
                bearers = self._bearers.get(label, {})
                return _union(
                    bitmap for value, bitmap in bearers.items() if selector.matches({label: value})
                )
            case Not(operand):
                return self._everyone - self._bitmap(operand)
            case And(operands):
                return self._all_of(operands)
            case Or(operands):
                return _union(self._bitmap(operand) for operand in operands)
            case _:
                assert isinstance(selector, All)
                return self._everyone

    def _all_of(self, operands: tuple[Selector, ...]) -> BitMap:
        result: BitMap | None = None
        for operand in operands:
            if not isinstance(operand, Not):
                bitmap = self._bitmap(operand)
                result = bitmap if result is None else result & bitmap
        if result is None:
            result = self._everyone
        for operand in operands:
            if isinstance(operand, Not):
                result = result - self._bitmap(operand.operand)
        return result

    def _having(self, label: str) -> BitMap:
        return _union(self._bearers.get(label, {}).values())


def _union(bitmaps: Iterable[BitMap]) -> BitMap:
    found = list(bitmaps)
    return found[0] if len(found) == 1 else BitMap.union(*found) if found else BitMap()
