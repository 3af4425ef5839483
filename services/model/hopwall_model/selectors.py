"""The selector language: who is meant, said by labels.

Owns parsing, meaning and the canonical text. No regular expressions reach the user, nothing recurses
over user input while parsing, and every input is accepted or refused in time linear in its length.

Four spellings are folded while parsing, so that equal meanings more often share one set:
`a != "x"` is `!(a == "x")`, `not in` is `!(… in …)`, a set of one is `==`, `!!x` is `x`.

Source: Calico, libcalico-go/lib/selector (grammar, precedence, meaning of an absent label).
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from hopwall_model.names import digest

#: The caps. A resource's field has a lower one: see `resource_names`.
MAX_LENGTH = 4096
MAX_DEPTH = 32
MAX_TERMS = 256
MAX_LABEL = 512

#: The label that every namespaced endpoint and set bears: the name of its namespace.
NAMESPACE_LABEL = "projectcalico.org/namespace"

Labels = Mapping[str, str]
#: label → the values it may have (None: any), all of which must hold.
Requirements = tuple[tuple[str, frozenset[str] | None], ...]


class SelectorError(ValueError):
    """The text is not a selector. `position` counts characters from 1."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"Selector is wrong at character {position}: {reason}")
        self.position = position
        self.reason = reason


# ---------------------------------------------------------------- the tree


class Selector(Struct, frozen=True):
    """A parsed selector; equal trees mean the same."""

    def matches(self, labels: Labels) -> bool:
        """Tell whether these labels are meant. Depth is capped by the parser."""
        raise NotImplementedError


class All(Selector, frozen=True, tag=True):
    """`all()`, or nothing: everyone."""

    def matches(self, labels: Labels) -> bool:
        """Tell that everyone is meant."""
        return True


class Global(Selector, frozen=True, tag=True):
    """`global()`: what is in no namespace."""

    def matches(self, labels: Labels) -> bool:
        """Tell whether the labels name no namespace."""
        return NAMESPACE_LABEL not in labels


class Has(Selector, frozen=True, tag=True):
    """`has(label)`."""

    label: str

    def matches(self, labels: Labels) -> bool:
        """Tell whether the label is there, with any value."""
        return self.label in labels


class In(Selector, frozen=True, tag=True):
    """`label in {…}`, and `label == "…"`, which is a set of one."""

    label: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        """Tell whether the label is there with one of the values."""
        return labels.get(self.label) in self.values


TextOperator = Literal["contains", "starts with", "ends with"]


class Text(Selector, frozen=True, tag=True):
    """`label contains "…"`, `starts with`, `ends with`."""

    label: str
    operator: TextOperator
    text: str

    def matches(self, labels: Labels) -> bool:
        """Tell whether the label is there and its value is like this."""
        value = labels.get(self.label)
        if value is None:
            return False
        if self.operator == "contains":
            return self.text in value
        if self.operator == "starts with":
            return value.startswith(self.text)
        return value.endswith(self.text)


class Not(Selector, frozen=True, tag=True):
    """`!…`; also true where the label is absent."""

    operand: Selector

    def matches(self, labels: Labels) -> bool:
        """Tell whether the operand does not match."""
        return not self.operand.matches(labels)


class And(Selector, frozen=True, tag=True):
    """`… && …`."""

    operands: tuple[Selector, ...]

    def matches(self, labels: Labels) -> bool:
        """Tell whether all match."""
        return all(operand.matches(labels) for operand in self.operands)


class Or(Selector, frozen=True, tag=True):
    """`… || …`."""

    operands: tuple[Selector, ...]

    def matches(self, labels: Labels) -> bool:
        """Tell whether one matches."""
        return any(operand.matches(labels) for operand in self.operands)


ALL = All()
GLOBAL = Global()


def not_(selector: Selector) -> Selector:
    """Return the opposite; the opposite of an opposite is the thing itself."""
    return selector.operand if isinstance(selector, Not) else Not(selector)


def and_(*selectors: Selector) -> Selector:
    """Return what means those that all mean; flat, and without `all()`."""
    flat: list[Selector] = []
    for selector in selectors:
        parts = selector.operands if isinstance(selector, And) else (selector,)
        flat.extend(part for part in parts if part != ALL)
    if not flat:
        return ALL
    return flat[0] if len(flat) == 1 else And(tuple(flat))


# ---------------------------------------------------------------- parsing

_BLANK = re.compile(r"[ \t]*")
_LABEL = re.compile(r"[A-Za-z0-9_./-]+")
_CALL = re.compile(r"(all|global)\([ \t]*\)|has\([ \t]*([A-Za-z0-9_./-]+)[ \t]*\)")
_OPERATOR = re.compile(
    r"==|!=|contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in(?![A-Za-z0-9_])|in(?![A-Za-z0-9_])"
)


class _Group:
    """What stands between one pair of parentheses, while it is read."""

    __slots__ = ("alternatives", "conjuncts", "negated", "start")

    def __init__(self, start: int, negated: bool) -> None:
        self.start = start
        self.negated = negated
        self.conjuncts: list[Selector] = []
        self.alternatives: list[Selector] = []

    def end_conjunction(self) -> None:
        """Close the `&&` group that is open: `||` binds weaker."""
        parts = self.conjuncts
        self.alternatives.append(parts[0] if len(parts) == 1 else And(tuple(parts)))
        self.conjuncts = []

    def value(self) -> Selector:
        """Return the whole group's meaning."""
        self.end_conjunction()
        parts = self.alternatives
        node = parts[0] if len(parts) == 1 else Or(tuple(parts))
        return not_(node) if self.negated else node


class _Parser:
    """One pass over the text, with the open parentheses on a list instead of the call stack."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.n_terms = 0
        self.groups = [_Group(0, negated=False)]

    def error(self, reason: str, at: int | None = None) -> SelectorError:
        return SelectorError((self.at if at is None else at) + 1, reason)

    def skip_blanks(self) -> None:
        found = _BLANK.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def take(self, token: str) -> bool:
        """Step over the token if it is next."""
        self.skip_blanks()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def parse(self) -> Selector:
        while True:
            self.operand()
            while self.take(")"):
                self.close()
            if self.take("&&"):
                continue
            if self.take("||"):
                self.groups[-1].end_conjunction()
                continue
            if self.at == len(self.text):
                return self.finish()
            raise self.error("write && or || between two conditions.")

    def finish(self) -> Selector:
        if len(self.groups) > 1:
            raise self.error("this parenthesis is never closed.", self.groups[-1].start)
        return self.groups[0].value()

    def operand(self) -> None:
        """Read all that opens here, then one condition."""
        negated = False
        while True:
            if self.take("!"):
                negated = not negated
            elif self.take("("):
                if len(self.groups) > MAX_DEPTH:
                    reason = f"more than {MAX_DEPTH} parentheses inside each other."
                    raise self.error(reason, self.at - 1)
                self.groups.append(_Group(self.at - 1, negated))
                negated = False
            else:
                break
        condition = self.condition()
        self.groups[-1].conjuncts.append(not_(condition) if negated else condition)

    def close(self) -> None:
        if len(self.groups) == 1:
            raise self.error("this parenthesis was never opened.", self.at - 1)
        group = self.groups.pop()
        self.groups[-1].conjuncts.append(group.value())

    def condition(self) -> Selector:
        self.n_terms += 1
        if self.n_terms > MAX_TERMS:
            raise self.error(f"more than {MAX_TERMS} conditions.")
        call = _CALL.match(self.text, self.at)
        if call:
            start, self.at = self.at, call.end()
            if call[2] is not None:
                return Has(self.checked_label(call[2], start))
            return ALL if call[1] == "all" else GLOBAL
        label = _LABEL.match(self.text, self.at)
        if not label:
            raise self.error("expected a condition, such as role == 'web' or has(role).")
        start, self.at = self.at, label.end()
        return self.comparison(self.checked_label(label[0], start))

    def checked_label(self, label: str, at: int) -> str:
        if len(label) > MAX_LABEL:
            raise self.error(f"a label is at most {MAX_LABEL} characters long.", at)
        return label

    def comparison(self, label: str) -> Selector:
        self.skip_blanks()
        found = _OPERATOR.match(self.text, self.at)
        if not found:
            raise self.error(
                "expected ==, !=, in, not in, contains, starts with or ends with after the label."
            )
        self.at = found.end()
        operator = found[0].replace(" ", "").replace("\t", "")
        if operator in ("in", "notin"):
            members = In(label, self.value_set())
            return members if operator == "in" else Not(members)
        value = self.literal()
        if operator in ("==", "!="):
            equal = In(label, frozenset((value,)))
            return equal if operator == "==" else Not(equal)
        return Text(label, _TEXT_OPERATORS[operator], value)

    def value_set(self) -> frozenset[str]:
        if not self.take("{"):
            raise self.error("expected { and a list of quoted values.")
        values: set[str] = set()
        while not self.take("}"):
            values.add(self.literal())
            if not self.take(","):
                if self.take("}"):
                    break
                raise self.error("expected a comma or } after the value.")
        return frozenset(values)

    def literal(self) -> str:
        self.skip_blanks()
        quote = self.text[self.at : self.at + 1]
        if quote not in ("'", '"'):
            raise self.error("expected a value in quotes.")
        end = self.text.find(quote, self.at + 1)
        if end < 0:
            raise self.error("this quote is never closed.")
        value = self.text[self.at + 1 : end]
        self.at = end + 1
        return value


_TEXT_OPERATORS: dict[str, TextOperator] = {
    "contains": "contains",
    "startswith": "starts with",
    "endswith": "ends with",
}


@lru_cache(maxsize=16384)
def parse(text: str) -> Selector:
    """Return the meaning of a selector's text; no text means everyone.

    Errors: `SelectorError`, and nothing else, for any text.
    Cost:   linear in the length, which is at most `MAX_LENGTH`; repeated texts are remembered.
    """
    if len(text) > MAX_LENGTH:
        raise SelectorError(MAX_LENGTH + 1, f"a selector is at most {MAX_LENGTH} characters long.")
    for at, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise SelectorError(at + 1, "half a surrogate pair is not a character.")
    if not text.strip(" \t"):
        return ALL
    return _Parser(text).parse()


# ---------------------------------------------------------------- text and identity


def _quoted(value: str) -> str:
    # A literal cannot hold both quotes: the language has no escapes.
    return f"'{value}'" if '"' in value else f'"{value}"'


def _membership(node: In, negated: bool) -> str:
    values = sorted(node.values)
    if len(values) == 1:
        return f"{node.label} {'!=' if negated else '=='} {_quoted(values[0])}"
    listed = ", ".join(_quoted(value) for value in values)
    return f"{node.label} {'not in' if negated else 'in'} {{{listed}}}"


def canonical(selector: Selector) -> str:
    """Return the one text of this tree; parsing it gives the same tree, where the caps allow.

    Shape: sets sorted without repeats, double quotes where possible, groups in parentheses.
    """
    match selector:
        case In():
            return _membership(selector, negated=False)
        case Not(In() as membership):
            return _membership(membership, negated=True)
        case Not(operand):
            return f"!{canonical(operand)}"
        case And(operands) | Or(operands):
            joint = " && " if isinstance(selector, And) else " || "
            return f"({joint.join(canonical(operand) for operand in operands)})"
        case Text(label, operator, text):
            return f"{label} {operator} {_quoted(text)}"
        case Has(label):
            return f"has({label})"
        case _:
            return "all()" if isinstance(selector, All) else "global()"


def selector_id(selector: Selector) -> str:
    """Return the identity of the set of those who are meant: "s:" and a hash of the canonical text."""
    return "s:" + digest(canonical(selector), 24)


# ---------------------------------------------------------------- questions for indexing


def requirements(selector: Selector) -> Requirements:
    """Return what labels must hold for a match to be possible; sorted by label, one entry each.

    Sound, not complete: whoever fails one is not meant; who passes all must still be asked.
    """
    found = _requirements(selector)
    return tuple(sorted(found.items(), key=lambda item: item[0]))


def _requirements(selector: Selector) -> dict[str, frozenset[str] | None]:
    match selector:
        case In(label, values):
            return {label: values}
        case Has(label) | Text(label):
            return {label: None}
        case And(operands):
            return _all_of([_requirements(operand) for operand in operands])
        case Or(operands):
            return _one_of([_requirements(operand) for operand in operands])
        case _:
            return {}


def _all_of(
    parts: list[dict[str, frozenset[str] | None]],
) -> dict[str, frozenset[str] | None]:
    merged: dict[str, frozenset[str] | None] = {}
    for part in parts:
        for label, values in part.items():
            held = merged.get(label)
            if held is not None:
                values = held if values is None else held & values
            merged[label] = values
    return merged


def _one_of(
    parts: list[dict[str, frozenset[str] | None]],
) -> dict[str, frozenset[str] | None]:
    merged: dict[str, frozenset[str] | None] = {}
    for label in frozenset.intersection(*(frozenset(part) for part in parts)):
        choices = [part[label] for part in parts]
        known = [values for values in choices if values is not None]
        merged[label] = frozenset().union(*known) if len(known) == len(choices) else None
    return merged


def conditions(selector: Selector) -> tuple[Selector, ...]:
    """Return the leaves of the tree, left to right."""
    match selector:
        case Not(operand):
            return conditions(operand)
        case And(operands) | Or(operands):
            return tuple(leaf for operand in operands for leaf in conditions(operand))
        case _:
            return (selector,)


def mentions_global(selector: Selector) -> bool:
    """Tell whether `global()` is anywhere in it."""
    return GLOBAL in conditions(selector)


def map_conditions(selector: Selector, change: Callable[[Selector], Selector]) -> Selector:
    """Return the tree with each leaf changed, as when namespace labels get a prefix."""
    match selector:
        case Not(operand):
            return not_(map_conditions(operand, change))
        case And(operands):
            return And(tuple(map_conditions(operand, change) for operand in operands))
        case Or(operands):
            return Or(tuple(map_conditions(operand, change) for operand in operands))
        case _:
            return change(selector)


def prefix_labels(selector: Selector, prefix: str) -> Selector:
    """Return the selector asking for `<prefix><label>` wherever it asked for `<label>`."""

    def prefixed(leaf: Selector) -> Selector:
        match leaf:
            case Has(label):
                return Has(prefix + label)
            case In(label, values):
                return In(prefix + label, values)
            case Text(label, operator, text):
                return Text(prefix + label, operator, text)
            case _:
                return leaf

    return map_conditions(selector, prefixed)
