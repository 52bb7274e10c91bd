"""Local delivery as the network would do it, to find mistakes in tests: `Host(serialize_local=True)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..logic.bodies import copy_body
from .dispatcher import Dispatcher

if TYPE_CHECKING:
    from ..messages import Ref
    from .context import Context


class CopyingDispatcher(Dispatcher):
    """Copies every body on its way, in the sender's call, and every reply in the asker's."""

    __slots__ = ()

    def send(self, ref: Ref, body: object, _sender: Ref | None = None, _ctx: Context | None = None) -> None:
        """Accept a copy of a message."""
        super().send(ref, copy_body(body), _sender, _ctx)

    def request(self, ref: Ref, body: object, timeout: float | None = None, _ctx: Context | None = None) -> Any:
        """Accept a copy of a message and wait for the reply, which is copied too."""
        return copy_body(super().request(ref, copy_body(body), timeout, _ctx))
