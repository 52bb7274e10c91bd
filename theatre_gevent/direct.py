"""What every message is asked for. Compiled modules read it from where it lies instead, see `direct.pxd`."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Getter = Callable[[Any], Any]

# Each returns the field of that name: of an envelope, of a ref, of a batch that has arrived.
ref_of: Getter = attrgetter("ref")
body_of: Getter = attrgetter("body")
sender_of: Getter = attrgetter("sender")
headers_of: Getter = attrgetter("headers")
seq_of: Getter = attrgetter("seq")
epoch_of: Getter = attrgetter("epoch")
timeout_of: Getter = attrgetter("timeout")
type_of: Getter = attrgetter("type")
id_of: Getter = attrgetter("id")
messages_of: Getter = attrgetter("messages")
unmade_of: Getter = attrgetter("unmade")

is_ascii: Callable[[str], bool] = str.isascii
"""Tells whether a text consists of ASCII only; of a str and nothing else."""
