"""The parameters of a query: read, checked, and complained about by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from ..logic.paging import MAX_LIMIT, read_cursor

_LONGEST = 4096
"""Characters of a value."""


class BadParameter(ValueError):
    """A parameter is missing, unknown or not what it should be. Whoever asks is at fault.

    Attributes:
        name: Which one.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(text)


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        name: Its name.
        read: Makes the value of its text; raises ValueError that says what it must be.
        required: Whether it has to be there.
        default: The value if it is not.
    """

    name: str
    read: Callable[[str], Any]
    required: bool = False
    default: Any = None

    def optional(self) -> Parameter:
        """Return the same that need not be there."""
        return self._replace(required=False)


def read(query: str, wanted: Iterable[Parameter]) -> dict[str, Any]:
    """Return the values of all `wanted` parameters by name.

    Raises:
        BadParameter: Naming what is wrong.
    """
    wanted = tuple(wanted)
    names = [parameter.name for parameter in wanted]
    try:
        given = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=20)
    except UnicodeDecodeError:
        raise BadParameter("", "the query is not UTF-8") from None
    except ValueError:
        raise BadParameter("", f"the query must be name=value pairs joined by '&', got {query[:100]!r}") from None
    for name, values in given.items():
        if name not in names:
            allowed = "allowed: " + ", ".join(names) if names else "none is taken here"
            raise BadParameter(name, f"unknown parameter {name[:100]!r}; {allowed}")
        if len(values) > 1:
            raise BadParameter(name, f"parameter {name!r} is given {len(values)} times")
        if len(values[0]) > _LONGEST:
            raise BadParameter(name, f"parameter {name!r} has more than {_LONGEST} characters")
    return {parameter.name: _value(parameter, given.get(parameter.name)) for parameter in wanted}


def _value(parameter: Parameter, values: list[str] | None) -> Any:
    name = parameter.name
    if values is None:
        if parameter.required:
            raise BadParameter(name, f"parameter {name!r} is missing")
        return parameter.default
    try:
        return parameter.read(values[0])
    except ValueError as error:
        raise BadParameter(name, f"parameter {name!r} {error}, got {values[0][:100]!r}") from None


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT):
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _cursor(text: str) -> str:
    read_cursor(text)
    return text


TYPE = Parameter("type", _text, required=True)
ID = Parameter("id", _text, required=True)
PREFIX = Parameter("prefix", str, default="")
AFTER = Parameter("after", _cursor)
LIMIT = Parameter("limit", _limit, default=100)
HOST = Parameter("host", _text)
