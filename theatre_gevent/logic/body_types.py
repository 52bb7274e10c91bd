"""MessagePack extension types: how what MessagePack does not know travels, and arrives as the type it left as.

| code | type | content |
|---|---|---|
| 1 tuple, 2 set, 3 frozenset | | an array of the items |
| 4 | bytearray | the bytes |
| 5 | int beyond 64 bits | two's complement, big-endian |
| 6 | datetime | array: year, month, day, hour, minute, second, microsecond, fold, zone |
| 7 | date | its proleptic ordinal, an integer |
| 8 | time | array: hour, minute, second, microsecond, fold, zone |
| 9 | timedelta | array: days, seconds, microseconds |
| 10 | UUID | 16 bytes |
| 11 | Decimal | its text |
| 12 | dict with keys that MessagePack cannot hold | array: key, value, key, value, ... |
| 13 | object of a class registered with `@message` | array: name, map of its fields (enumeration: its member) |
| 14 | Ref | array: type, id |
| 15 | msgspec.UNSET | nothing |

A zone is nil (naive), an array of microseconds east of Greenwich and perhaps a name (`datetime.timezone`), or a
string, the key of a `zoneinfo.ZoneInfo`.
"""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

from ..errors import text_of
from ..message_types import BY_CLASS, BY_NAME
from ..messages import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    Prepared = Any
    """What msgspec encodes without losing a type: plain values and `Ext`."""

TUPLE, SET, FROZENSET, BYTEARRAY, BIG_INT = 1, 2, 3, 4, 5
DATETIME, DATE, TIME, TIMEDELTA, UUID_, DECIMAL = 6, 7, 8, 9, 10, 11
PAIRS, OBJECT, REF, UNSET = 12, 13, 14, 15

MAX_DEPTH = 100
"""Levels of nesting that a body may have. A body that contains itself runs into it at once."""

PLAIN = frozenset({type(None), bool, int, float, str, bytes})
"""Scalars that MessagePack holds as they are (integers: up to 64 bits)."""
PLAIN_BUT_INT = PLAIN - {int}
"""The same for the second try, when an integer turned out to be longer."""

_MICROSECOND = timedelta(microseconds=1)

encode = Encoder().encode


class Refused(Exception):
    """Something in a body cannot travel; the text says why, where it is is looked for afterwards."""


class BadBody(ValueError):
    """A body arrived that this host cannot read: the message is lost, its connection is not."""


def prepare(value: Any, depth: int, plain: frozenset[type]) -> Prepared:
    """Return what msgspec encodes in place of `value`; containers of plain values are returned as they are."""
    kind = type(value)
    if kind in plain:
        return value
    packer = PACKERS.get(kind)
    if packer is None:
        if kind in BY_CLASS:
            packer = _pack_object
        else:
            raise Refused(_why_not(value))
    if depth >= MAX_DEPTH:
        raise Refused(f"it is nested more than {MAX_DEPTH} levels deep")
    return packer(value, depth + 1, plain)


def _why_not(value: object) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    for base in kind.__mro__[1:]:
        if base in PLAIN or base in PACKERS:
            would = f"{name} is a subclass of {base.__name__} and would arrive as something else"
            if issubclass(kind, enum.Enum) or hasattr(kind, "_fields"):
                return f"{would}; register it with @message"
            return f"{would}; send {base.__name__}(...) of it"
    if isinstance(value, type):
        return f"a class ({value.__qualname__}) cannot travel"
    return (
        f"{name} cannot travel; allowed are None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set, "
        "frozenset, datetime, date, time, timedelta, UUID, Decimal, Ref and classes registered with @message"
    )


# --- from objects to what msgspec encodes ---------------------------------------------------------------------------


def _pack_int(value: int, _depth: int, _plain: frozenset[type]) -> Prepared:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return Ext(BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _pack_list(value: list[Any], depth: int, plain: frozenset[type]) -> Prepared:
    if plain.issuperset(map(type, value)):
        return value
    return [item if type(item) in plain else prepare(item, depth, plain) for item in value]


def _pack_dict(value: dict[Any, Any], depth: int, plain: frozenset[type]) -> Prepared:
    if plain.issuperset(map(type, value)):
        if plain.issuperset(map(type, value.values())):
            return value
        return {key: item if type(item) in plain else prepare(item, depth, plain) for key, item in value.items()}
    pairs: list[Prepared] = []
    for key, item in value.items():
        pairs += prepare(key, depth, plain), prepare(item, depth, plain)
    return Ext(PAIRS, encode(pairs))


def _array_packer(code: int) -> Callable[[Any, int, frozenset[type]], Prepared]:
    def pack(value: Any, depth: int, plain: frozenset[type]) -> Prepared:
        if not plain.issuperset(map(type, value)):
            value = [item if type(item) in plain else prepare(item, depth, plain) for item in value]
        return Ext(code, encode(value))

    return pack


def _pack_zone(zone: tzinfo | None) -> Prepared:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // _MICROSECOND, *name]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise Refused(f"a time zone of type {type(zone).__qualname__} cannot travel; use datetime.timezone or zoneinfo")


def _pack_datetime(value: datetime, _depth: int, _plain: frozenset[type]) -> Prepared:
    v = value
    zone = _pack_zone(v.tzinfo)
    fields = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, zone]
    return Ext(DATETIME, encode(fields))


def _pack_time(value: time, _depth: int, _plain: frozenset[type]) -> Prepared:
    v = value
    return Ext(TIME, encode([v.hour, v.minute, v.second, v.microsecond, v.fold, _pack_zone(v.tzinfo)]))


def _pack_object(value: Any, depth: int, plain: frozenset[type]) -> Prepared:
    plan = BY_CLASS[type(value)]
    try:
        taken = plan.take(value)
    except AttributeError as error:
        raise Refused(f"a field of {type(value).__qualname__} is not set: {error}") from None
    if plan.fields:
        if not plain.issuperset(map(type, taken)):
            taken = [item if type(item) in plain else prepare(item, depth, plain) for item in taken]
        content: Prepared = dict(zip(plan.fields, taken, strict=True))
    else:
        content = _pack_int(taken, depth, plain) if type(taken) is int else taken or {}
    return Ext(OBJECT, encode([plan.name, content]))


PACKERS: dict[type, Callable[[Any, int, frozenset[type]], Prepared]] = {
    int: _pack_int,
    list: _pack_list,
    dict: _pack_dict,
    tuple: _array_packer(TUPLE),
    set: _array_packer(SET),
    frozenset: _array_packer(FROZENSET),
    bytearray: lambda value, _depth, _plain: Ext(BYTEARRAY, bytes(value)),
    datetime: _pack_datetime,
    date: lambda value, _depth, _plain: Ext(DATE, encode(value.toordinal())),
    time: _pack_time,
    timedelta: lambda value, _depth, _plain: Ext(TIMEDELTA, encode([value.days, value.seconds, value.microseconds])),
    UUID: lambda value, _depth, _plain: Ext(UUID_, value.bytes),
    Decimal: lambda value, _depth, _plain: Ext(DECIMAL, str(value).encode()),
    Ref: lambda value, _depth, _plain: Ext(REF, encode(value)),
    msgspec.UnsetType: lambda _value, _depth, _plain: Ext(UNSET, b""),
}


# --- and back ---------------------------------------------------------------------------------------------------------


def unpack_ext(code: int, content: memoryview) -> Any:
    """Return the object that an extension holds.

    Raises:
        BadBody: The class or the code is unknown, or the content does not fit the class.
        Exception: Whatever the content's type raises over bad content; the caller treats all alike.
    """
    unpacker = _UNPACKERS.get(code)
    if unpacker is None:
        raise BadBody(f"extension type {code} is unknown to this host")
    return unpacker(content)


_decode = Decoder(ext_hook=unpack_ext).decode
_decode_list = Decoder(list[Any], ext_hook=unpack_ext).decode
_decode_ints = Decoder(list[int]).decode
_decode_ref = Decoder(Ref).decode


def _unpack_zone(zone: Any) -> tzinfo | None:
    if zone is None:
        return None
    if type(zone) is str:
        return ZoneInfo(zone)
    offset, *name = zone
    if offset == 0 and not name:
        return timezone.utc
    return timezone(timedelta(microseconds=offset), *name)


def _unpack_datetime(content: memoryview) -> datetime:
    year, month, day, hour, minute, second, micro, fold, zone = _decode_list(content)
    return datetime(year, month, day, hour, minute, second, micro, _unpack_zone(zone), fold=fold)


def _unpack_time(content: memoryview) -> time:
    hour, minute, second, micro, fold, zone = _decode_list(content)
    return time(hour, minute, second, micro, _unpack_zone(zone), fold=fold)


def _unpack_pairs(content: memoryview) -> dict[Any, Any]:
    pairs = iter(_decode_list(content))
    return dict(zip(pairs, pairs, strict=True))


def _unpack_object(content: memoryview) -> Any:
    name, values = _decode_list(content)
    plan = BY_NAME.get(name)
    if plan is None:
        raise BadBody(f"message class {name!r} is not registered on this host (@message)")
    try:
        return plan.build(values)
    except Exception as error:
        raise BadBody(f"{name!r} cannot be made from what arrived: {type(error).__name__}: {text_of(error)}") from error


_UNPACKERS: dict[int, Callable[[memoryview], Any]] = {
    TUPLE: lambda content: tuple(_decode_list(content)),
    SET: lambda content: set(_decode_list(content)),
    FROZENSET: lambda content: frozenset(_decode_list(content)),
    BYTEARRAY: bytearray,
    BIG_INT: lambda content: int.from_bytes(content, "big", signed=True),
    DATETIME: _unpack_datetime,
    DATE: lambda content: date.fromordinal(_decode(content)),
    TIME: _unpack_time,
    TIMEDELTA: lambda content: timedelta(*_decode_ints(content)),
    UUID_: lambda content: UUID(bytes=bytes(content)),
    DECIMAL: lambda content: Decimal(str(content, "ascii")),
    PAIRS: _unpack_pairs,
    OBJECT: _unpack_object,
    REF: _decode_ref,
    UNSET: lambda _content: msgspec.UNSET,
}
