"""What a `Ref` is made of. Apart from it, so that what runs for every ref from afar can be compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import direct
from .errors import InvalidRef

if TYPE_CHECKING:
    from .messages import Ref


def check(ref: Ref) -> None:
    """Look at the fields of a new ref.

    Raises:
        InvalidRef: `type` or `id` is empty or not a string.
    """
    kind, name = direct.type_of(ref), direct.id_of(ref)
    if type(kind) is str and type(name) is str and kind and name:
        return
    field, value = ("id", name) if type(kind) is str and kind else ("type", kind)
    raise InvalidRef(f"Ref {field} must be a non-empty string, got {value!r}")
