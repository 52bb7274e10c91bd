"""Message bodies: from objects to bytes and back, every type as it left.

A plain body (scalars, lists and dicts of them) is its own MessagePack; what MessagePack does not know travels as an
extension (`body_types`). A sender *packs* its body in its own call: that copies it, finds what cannot travel while the
sender can still be told, and bounds its size. The codec puts what came out into a frame with many others.

Speed, Python 3.11, one core: see `benchmarks/codec.py`. A scalar packs without being encoded (it cannot change until
its frame is made), a small container costs the look at its items' types (about 45 ns each) and one msgspec call.
"""

from __future__ import annotations

from typing import Any

from msgspec import MsgspecError, Raw
from msgspec.msgpack import Decoder, Ext

from .. import direct
from ..errors import MessageNotSerializable
from ..message_types import BY_CLASS
from .body_types import MAX_DEPTH, PLAIN, PLAIN_BUT_INT, BadBody, Refused, encode, prepare, unpack_ext

MAX_BODY = 16 * 1024 * 1024 - 64 * 1024
"""Largest packed body in bytes: a frame's 16 MiB without room for ref, sender and headers."""
_MAX = MAX_BODY  # a number of C's when compiled, which other modules can't see

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_plain = PLAIN.issuperset
_decode = Decoder(ext_hook=unpack_ext).decode


def pack_body(body: Any) -> Any:
    """Return what stands for `body` in an envelope: a scalar, `msgspec.Raw` or `Ext`. Later changes do not reach it.

    Raises:
        MessageNotSerializable: The body holds something that cannot travel, named with its path, or is too large.
    """
    kind = type(body)
    if kind is str:
        if direct.is_ascii(body) and len(body) <= _MAX:
            return body
    elif kind is int:
        if _INT_MIN <= body <= _INT_MAX:
            return body
    elif kind is bytes:
        if len(body) <= MAX_BODY:
            return body
    elif body is None or kind is bool or kind is float:
        return body
    elif (kind is list or kind is dict) and _is_plain(body):
        try:
            data = encode(body)
            if len(data) <= MAX_BODY:
                return Raw(data)
        except (OverflowError, UnicodeEncodeError):
            pass  # a long integer, or what is no text: the slow way knows what to do
    data = _encode(body)
    if type(data) is Ext:
        size = len(memoryview(data.data))
    else:
        size = len(data)
        data = Raw(data)
    if size > MAX_BODY:
        raise MessageNotSerializable(
            f"the body, a {kind.__qualname__}, has {size} bytes when encoded; at most {MAX_BODY} fit into a frame"
        )
    return data


def body_size(packed: Any) -> int:
    """Return about how many bytes a packed body takes, for bounding queues."""
    kind = type(packed)
    if kind is str or kind is bytes:
        return len(packed) + 5
    if kind is Raw:
        return memoryview(packed).nbytes
    if kind is Ext:
        return len(memoryview(packed.data)) + 6
    return 9


def dump_body(body: Any) -> bytes:
    """Return `body` as bytes by itself, to be stored.

    Raises:
        MessageNotSerializable: The body holds something that cannot travel, named with its path.
    """
    data = _encode(body)
    return data if type(data) is bytes else encode(data)


def load_body(data: bytes | memoryview | Raw) -> Any:
    """Return the body that `dump_body` made into `data`.

    Raises:
        BadBody: It holds a class that is not registered here, or is damaged.
    """
    try:
        return _decode(data)
    except BadBody:
        raise
    except Exception as error:
        raise BadBody(f"{type(error).__name__}: {error}") from error


def unpack_body(packed: Any) -> Any:
    """Return the body that `pack_body` made `packed` of, where it never left this process."""
    return load_body(encode(packed))


def copy_body(body: Any) -> Any:
    """Return `body` as another host would get it.

    Raises:
        MessageNotSerializable: It cannot travel.
        BadBody: It can be sent, and not be made again.
    """
    return load_body(dump_body(body))


def _encode(body: Any) -> Any:
    """Return the MessagePack bytes of `body`, or the extension that it is as a whole."""
    try:
        try:
            prepared = prepare(body, 0, PLAIN)
            return prepared if type(prepared) is Ext else encode(prepared)
        except OverflowError:  # an integer beyond 64 bits somewhere: look at each
            prepared = prepare(body, 0, PLAIN_BUT_INT)
            return prepared if type(prepared) is Ext else encode(prepared)
    except (Refused, RecursionError, UnicodeEncodeError, MsgspecError, TypeError, ValueError) as error:
        path, reason = _find("body", body, 0, set()) or ("body", str(error))
        raise MessageNotSerializable(f"{path}: {reason}") from None


def _is_plain(body: list[Any] | dict[Any, Any]) -> bool:
    """Return True if `body` is a small tree of lists, dicts and scalars, for which msgspec needs no help.

    Bounding the number of containers bounds the depth too, so a body that contains itself ends here.
    """
    containers = [body]
    for container in containers:  # grows on the way
        if type(container) is dict:
            for key, item in container.items():
                kind = type(item)
                if kind not in PLAIN:
                    if (kind is not list and kind is not dict) or len(containers) >= MAX_DEPTH:
                        return False
                    containers.append(item)
                if type(key) not in PLAIN:
                    return False
        elif len(container) <= 8 or not _plain(map(type, container)):  # in C it is faster from about 8 items on
            for item in container:
                kind = type(item)
                if kind not in PLAIN:
                    if (kind is not list and kind is not dict) or len(containers) >= MAX_DEPTH:
                        return False
                    containers.append(item)
    return True


def _find(path: str, value: Any, depth: int, inside: set[int]) -> tuple[str, str] | None:
    """Return path and reason of the first thing that cannot travel. Only for errors, so it may be slow."""
    if id(value) in inside:
        return path, "it contains itself"
    if depth > MAX_DEPTH:
        return path, f"it is nested more than {MAX_DEPTH} levels deep"
    kind = type(value)
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return path, f"the string is not valid Unicode: {error}"
        return None
    children = _children(path, value)
    if children is None:
        try:
            prepare(value, 0, PLAIN)
        except (Refused, ValueError) as error:
            return path, str(error)
        return None
    inside = inside | {id(value)}
    for child_path, child in children:
        found = _find(child_path, child, depth + 1, inside)
        if found is not None:
            return found
    return None


def _children(path: str, value: Any) -> list[tuple[str, Any]] | None:
    """Return what `value` contains with the paths to it, None if it is not one of the containers."""
    kind = type(value)
    if kind is list or kind is tuple:
        return [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    if kind is set or kind is frozenset:
        return [(f"an item of {path}", item) for item in value]
    if kind is dict:
        found = []
        for key, item in value.items():
            name = _short(key)
            found += [(f"the key {name} of {path}", key), (f"{path}[{name}]", item)]
        return found
    plan = BY_CLASS.get(kind)
    if plan is None or not plan.fields:
        return None
    return [(f"{path}.{name}", getattr(value, name)) for name in plan.fields if hasattr(value, name)]


def _short(key: Any) -> str:
    text = ascii(key) if type(key) in PLAIN else f"<{type(key).__qualname__}>"
    return text if len(text) <= 60 else text[:57] + "..."
