"""Bytes ⇄ values. The only module that knows which wire format is used (JSON, by msgspec)."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from hopwall_model.events import Event

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


class CodecError(ValueError):
    """The bytes are not a value of the type; the text names the path of the first fault."""


def encode(value: Any) -> bytes:
    """Return the value as JSON bytes."""
    return _encoder.encode(value)


def decoder(type_: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes values of one type.

    Errors: the function raises `CodecError`, and nothing else, for any bytes.
    """
    decode = msgspec.json.Decoder(type_).decode

    def checked(data: bytes) -> T:
        try:
            return decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(str(error)) from error

    return checked


decode_event: Callable[[bytes], Event] = decoder(Event)  # type: ignore[arg-type]
