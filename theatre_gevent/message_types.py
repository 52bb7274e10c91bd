"""Classes of yours that may travel between hosts: the `@message` registry.

    @message
    @dataclass
    class Order:
        items: list[str]

    @message("shop.price")          # a stable name: survives moving or renaming the class
    class Price(msgspec.Struct):
        cents: int

Registered are dataclasses, msgspec Structs, enumerations and named tuples. On the wire stand the name and the fields by
name, nothing of the class itself, so both hosts must have registered it. A field that the receiver does not know is
left out, one that the sender did not send gets its default: a field with a default may be added in a rolling upgrade.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec
from msgspec.structs import force_setattr

from .errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

C = TypeVar("C", bound=type)

_BUILTINS = (BaseException, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)


class MessageType(msgspec.Struct, frozen=True):
    """How the objects of one registered class are taken apart and put together again.

    Attributes:
        cls: The class.
        name: Its name on the wire.
        fields: Names of what travels; empty for enumerations, whose members travel by name.
        take: From an object to the values of `fields`, in their order.
        build: From what travelled to an object: a mapping of fields, or what `take` gave for an enumeration.
    """

    cls: type
    name: str
    fields: tuple[str, ...]
    take: Callable[[Any], Any]
    build: Callable[[Any], Any]


BY_NAME: dict[str, MessageType] = {}
BY_CLASS: dict[type, MessageType] = {}


@overload
def message(cls: C, /) -> C: ...


@overload
def message(name: str, /) -> Callable[[C], C]: ...


def message(target: Any, /) -> Any:
    """Register a class, so that its objects can travel in messages and arrive as what they were.

    Use it as `@message`, which names the class `module.QualName`, or as `@message("a.stable.name")`. It stands above
    `@dataclass`.

    Dataclasses are put together again without calling `__init__` or `__post_init__`. A msgspec Struct is called with
    its fields, so that its `__post_init__` runs on arrival too: one that raises refuses the message there; what one
    that does not raise sets its fields to is undone, since it did so at the sender already. A named tuple is called
    with its fields.

    Args:
        target: A dataclass, msgspec Struct, enumeration or named tuple, or the name for it.

    Raises:
        RegistrationError: The class is none of these, or the name or the class is registered already.
    """
    if isinstance(target, str):
        if not target:
            raise RegistrationError("the name of a message class must not be empty")
        return lambda cls: _register(cls, target)
    if not isinstance(target, type):
        raise RegistrationError(f"@message goes above a class, or takes its name as a string, got {target!r}")
    # A script that is run by multiprocessing is called __mp_main__ in the children and __main__ in the parent.
    module = "__main__" if target.__module__ == "__mp_main__" else target.__module__
    return _register(target, f"{module}.{target.__qualname__}")


def _register(cls: type, name: str) -> type:
    if not isinstance(cls, type):
        raise RegistrationError(f"@message({name!r}) goes above a class, got {cls!r}")
    plan = _plan(cls, name)
    known = BY_CLASS.get(cls)
    if known is not None:
        if known.name == name:
            return cls
        raise RegistrationError(f"{cls.__qualname__} is already registered as {known.name!r}, not also as {name!r}")
    holder = BY_NAME.setdefault(name, plan)
    if holder is not plan:
        raise RegistrationError(
            f"the message name {name!r} is already taken by {holder.cls!r}; give {cls!r} another: @message('name')"
        )
    BY_CLASS[cls] = plan
    return cls


def _plan(cls: type, name: str) -> MessageType:
    if issubclass(cls, enum.Flag):
        return MessageType(cls, name, (), attrgetter("value"), cls)
    if issubclass(cls, enum.Enum):
        # The attribute `__getitem__` is that of str, bytes or tuple where the members are such, and `name` may be the
        # class's own.
        members: type[enum.Enum] = cls
        return MessageType(cls, name, (), attrgetter("_name_"), lambda member: members[member])
    if issubclass(cls, msgspec.Struct):
        fields = cls.__struct_fields__
        return MessageType(cls, name, fields, _taker(fields), _struct_builder(cls, fields))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        fields = tuple(cls._fields)
        return MessageType(cls, name, fields, tuple, _named_tuple_builder(cls, fields))
    if dataclasses.is_dataclass(cls):
        if issubclass(cls, _BUILTINS) or inspect.isabstract(cls):
            raise RegistrationError(f"{cls.__qualname__} cannot travel: it is abstract, or more than its fields")
        fields = tuple(field.name for field in dataclasses.fields(cls))
        return MessageType(cls, name, fields, _taker(fields), _dataclass_builder(cls))
    raise RegistrationError(
        f"{cls.__qualname__} cannot be a message: allowed are dataclasses (@message above @dataclass), "
        "msgspec Structs, enumerations and named tuples"
    )


def _taker(fields: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(fields) > 1:
        return attrgetter(*fields)
    if not fields:
        return lambda _: ()
    get = attrgetter(fields[0])
    return lambda value: (get(value),)


def _dataclass_builder(cls: type) -> Callable[[Mapping[str, Any]], Any]:
    fields = dataclasses.fields(cls)
    create, assign = object.__new__, object.__setattr__

    def build(values: Mapping[str, Any]) -> Any:
        made: Any = create(cls)
        for field in fields:
            if field.name in values:
                value = values[field.name]
            elif field.default is not dataclasses.MISSING:
                value = field.default
            elif field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            else:
                raise ValueError(f"its field {field.name!r} is missing and has no default")
            assign(made, field.name, value)
        return made

    return build


def _struct_builder(cls: type[msgspec.Struct], fields: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Any]:
    names = frozenset(fields)
    alters = hasattr(cls, "__post_init__")

    def build(values: Mapping[str, Any]) -> Any:
        if not names.issuperset(values):
            values = {name: value for name, value in values.items() if name in names}
        made = cls(**values)
        if alters:  # it may have changed what arrived, once more than at the sender
            for name, value in values.items():
                force_setattr(made, name, value)
        return made

    return build


def _named_tuple_builder(cls: type, fields: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Any]:
    names = frozenset(fields)
    return lambda values: cls(**{name: value for name, value in values.items() if name in names})
