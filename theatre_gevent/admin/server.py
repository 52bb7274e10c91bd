"""The admin server: gevent's WSGI server in the host's own hub."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ujson
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

from ..cluster.sockets import Address, listen, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("theatre_gevent.admin")

MAX_CONNECTIONS = 200
"""Connections at one time; more wait in the system's queue."""

IDLE = 30.0
"""Seconds for which a connection may say nothing, or not take an answer."""


_MISTAKES = {
    "400": ("Bad Request", "this is no HTTP request that can be read"),
    "414": ("URI Too Long", "the request line is longer than 8 KiB"),
}


class _Handler(WSGIHandler):
    def handle(self) -> None:
        self.socket.settimeout(IDLE)
        super().handle()

    def handle_one_request(self) -> Any:
        """Say as JSON what was wrong, also where the application was not asked."""
        result = super().handle_one_request()
        if not isinstance(result, tuple) or result[0] not in _MISTAKES:
            return result
        status = result[0]
        reason, text = _MISTAKES[status]
        body = ujson.dumps({"error": text})
        head = (
            f"HTTP/1.1 {status} {reason}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        )
        return status, "\r\n".join((*head, "", body)).encode()


class AdminServer:
    """Listens at once, serves from `serve` to `close`.

    Args:
        address: `host:port`; port 0 takes a free one.

    Attributes:
        address: Where it listens.

    Raises:
        CannotListen: The address is in use, say.
    """

    def __init__(self, address: str) -> None:
        wanted = parse_address(address, "admin_addr")
        self._listener = listen(wanted)
        self.address = Address(wanted.host, self._listener.getsockname()[1])
        self._server: WSGIServer | None = None

    def serve(self, app: Callable[..., Any]) -> None:
        """Answer requests from now on, in the hub of the calling thread."""
        self._server = WSGIServer(
            self._listener,
            app,
            spawn=Pool(MAX_CONNECTIONS),
            log=None,
            error_log=LoggingLogAdapter(log, logging.WARNING),
            handler_class=_Handler,
        )
        self._server.start()
        log.info("admin server at http://%s/", self.address)

    def abandon(self) -> None:
        """In a forked child: leave the connections to the parent."""
        if self._server is not None:
            self._server.close()
        self._listener.close()

    def close(self) -> None:
        """Answer no more; who is being answered gets a moment to read it."""
        if self._server is not None:
            self._server.stop(timeout=1.0)
        self._listener.close()
