"""From bytes to builtins, and from builtins to a shape: the first two gates of `validate`.

Refuses documents that two readers could understand differently (duplicate keys, NaN, half surrogate
pairs) or that cost more than they say (depth, number of values). Turns the decoder's messages into
sentences with a JSON pointer.
"""

import json
import math
import re
from collections import Counter
from datetime import date
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from hopwall_model.problems import Code, Findings, step
from hopwall_model.resource_names import (
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_RESOURCE_BYTES,
    MAX_TEXT,
)

T = TypeVar("T")
Path = tuple[str | int | None, ...]  # None: some member of a map, unnamed by the decoder

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_UNKNOWN_FIELDS = 20


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were given twice."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    marked = _Object(plain)
    times = Counter(key for key, _ in pairs)
    marked.repeated = tuple(key for key in plain if times[key] > 1)
    return marked


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def read_json(found: Findings, data: bytes) -> Any:
    """Return the document as builtins, or None with the problem noted.

    Errors: never, for any bytes.
    """
    if len(data) > MAX_RESOURCE_BYTES:
        reason = f"A resource is at most {MAX_RESOURCE_BYTES} bytes; this has {len(data)}."
        found.add("", reason, Code.LIMIT)
        return None
    try:
        return json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        found.add("", f"The document is not UTF-8 text at byte {error.start + 1}.", Code.JSON)
    except RecursionError:
        found.add("", "The document is nested too deeply.", Code.LIMIT)
    except ValueError as error:
        found.add("", f"The document is not JSON: {error}.", Code.JSON)
    return None


def check_values(found: Findings, document: Any) -> None:
    """Note every value that JSON cannot hold, or that would not mean the same everywhere.

    Cost: at most `MAX_JSON_VALUES` steps, whatever shares or loops a document from memory has.
    """
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    n_values = 0
    while waiting:
        pointer, value, depth = waiting.pop()
        n_values += 1
        if depth > MAX_JSON_DEPTH:
            reason = f"The document is nested more than {MAX_JSON_DEPTH} levels deep."
            found.add("", reason, Code.LIMIT)
            return
        if n_values > MAX_JSON_VALUES:
            found.add("", f"The document has more than {MAX_JSON_VALUES} values.", Code.LIMIT)
            return
        if isinstance(value, dict):
            _check_keys(found, pointer, value)
            waiting.extend((step(pointer, k), v, depth + 1) for k, v in value.items())
        elif isinstance(value, list | tuple):
            waiting.extend((f"{pointer}/{i}", member, depth + 1) for i, member in enumerate(value))
        elif reason := _scalar_fault(value):
            found.add(pointer, reason, Code.JSON)


def _check_keys(found: Findings, pointer: str, value: dict[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str) or _SURROGATE.search(key):
            found.add(pointer, f"Key {_short(key)} is not a text; put it in quotes.", Code.JSON)
        elif len(key) > MAX_TEXT:
            found.add(pointer, f"A key is longer than {MAX_TEXT} characters.", Code.LIMIT)
    for key in value.repeated if isinstance(value, _Object) else ():
        reason = f"Field {_short(key)} is given more than once; keep one."
        found.add(step(pointer, key), reason, Code.JSON)


def _short(value: object) -> str:
    return repr(value)[:64]


def _scalar_fault(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return "The text holds half a surrogate pair." if _SURROGATE.search(value) else ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "The number does not fit 64 bits."
    if isinstance(value, float):
        return "" if math.isfinite(value) else "The number is not finite."
    if isinstance(value, date):
        return "A bare date is not JSON; put it in quotes."
    return f"A value of type {type(value).__name__} is not JSON."


def shape(found: Findings, document: dict[str, Any], type_: type[T]) -> T | None:
    """Return the document as a value of the type, or None with the problems noted.

    Unknown fields are all noted; of other faults of shape only the first can be known. The value
    returned beside noted unknown fields is good for finding more problems, and for nothing else.
    """
    for _ in range(_MAX_UNKNOWN_FIELDS):
        try:
            return msgspec.convert(document, type_)
        except msgspec.ValidationError as error:
            path, message = _split_message(str(error))
            unknown = _UNKNOWN.fullmatch(message)
            if not unknown:
                _note_fault(found, document, type_, path, message)
                return None
            reason = f"Field {_short(unknown[1])} is not known here; {_fields_hint(type_, path)}."
            pointer, _ = _locate(document, path)
            found.add(step(pointer, unknown[1]), reason, Code.UNKNOWN_FIELD)
            document = _without(document, path, unknown[1])
    return None


def _without(value: Any, path: Path, field: str) -> Any:
    """Return a copy without one field; what is beside the path is shared, not copied."""
    if not path:
        return {name: member for name, member in value.items() if name != field}
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = _without(value[path[0]], path[1:], field)
    return changed


# ---------------------------------------------------------------- the decoder's messages

_AT = re.compile(r"(.*?)(?: - at (?:`key` in )?`(\$[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_GOT = re.compile(r"Expected `(.+)`, got `(\w+)`")
_BOUND = re.compile(r"Expected `(\w+)` (?:of length )?([<>])= (-?\d+)")
_ENUM = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)

_WORDS = {
    "int": "an integer",
    "str": "a string",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_GOT_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "object": dict,
    "array": (list, tuple),
    "null": type(None),
}


def _split_message(text: str) -> tuple[Path, str]:
    found = _AT.fullmatch(text)
    assert found is not None
    path: list[str | int | None] = []
    for name, index, member in _STEP.findall((found[2] or "$")[1:]):
        path.append(None if member else int(index) if index else name)
    return tuple(path), found[1]


def _locate(document: Any, path: Path, got: str = "") -> tuple[str, Any]:
    """Return the pointer to, and the value at, a path; an unnamed member is found by its type."""
    pointer, value = "", document
    for key in path:
        if key is None:
            kind = _GOT_TYPES.get(got, object)
            matching = [name for name, member in value.items() if isinstance(member, kind)]
            if not matching:
                break
            key = matching[0]
        if isinstance(value, dict) and key not in value:
            return step(pointer, key), None  # the tag field of a document without one
        pointer, value = step(pointer, key), value[key]
    return pointer, value


def _note_fault(found: Findings, document: Any, type_: Any, path: Path, message: str) -> None:
    if missing := _MISSING.fullmatch(message):
        pointer = step(_locate(document, path)[0], missing[1])
        found.add(pointer, f"Field {missing[1]!r} is required.", Code.MISSING)
        return
    got = _GOT.fullmatch(message)
    pointer, _ = _locate(document, path, got[2] if got else "")
    if bound := _BOUND.fullmatch(message):
        upper = bound[2].startswith("<")
        code = Code.LIMIT if upper and bound[1] == "array" else Code.SHAPE
        found.add(pointer, _bound_sentence(bound[1], upper, bound[3]), code)
        return
    if got:
        wanted = " or ".join(_WORDS.get(part, part) for part in got[1].split(" | "))
        reason = f"Expected {wanted}, not {_WORDS.get(got[2], got[2])}."
    elif enum := _ENUM.fullmatch(message):
        reason = f"{enum[1][:64]} is not allowed here; {_choices_hint(type_, path)}."
    else:
        reason = f"{message.replace('`', '')}."
    found.add(pointer, reason, Code.SHAPE)


def _bound_sentence(kind: str, upper: bool, bound: str) -> str:
    what = {"array": " entries", "str": " characters"}.get(kind, "")
    rest = "; spread the rest over others" if upper and kind == "array" else ""
    return f"Give at {'most' if upper else 'least'} {bound}{what} here{rest}."


def _type_at(type_: Any, path: Path) -> inspect.Type:
    info = inspect.type_info(type_)
    for key in path:
        for option in info.types if isinstance(info, inspect.UnionType) else (info,):
            following = _member_type(option, key)
            if following is not None:
                info = following
                break
    return info


def _member_type(info: inspect.Type, key: str | int | None) -> inspect.Type | None:
    if isinstance(info, inspect.StructType):
        return next((field.type for field in info.fields if field.encode_name == key), None)
    if isinstance(info, inspect.VarTupleType):
        return info.item_type
    return info.value_type if isinstance(info, inspect.DictType) else None


def _options(info: inspect.Type) -> tuple[inspect.Type, ...]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _choices_hint(type_: Any, path: Path) -> str:
    values = [
        str(value)
        for option in _options(_type_at(type_, path))
        if isinstance(option, inspect.LiteralType)
        for value in option.values
    ]
    return f"use {' or '.join(values)}" if values else "see the API reference"


def _fields_hint(type_: Any, path: Path) -> str:
    names = [
        field.encode_name
        for option in _options(_type_at(type_, path))
        if isinstance(option, inspect.StructType)
        for field in option.fields
    ]
    return f"known are {', '.join(names)}" if names else "remove it"
