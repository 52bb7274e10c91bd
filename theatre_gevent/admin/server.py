"""The admin server: gevent's WSGI server in the host's own hub, on its guard against whoever connects.

A stranger without the token reaches this code: neither may many requests on one connection keep the hub, nor slow
ones the connections, and what two servers in a row could read in two ways is not read at all.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import ujson
from gevent import Timeout
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

from ..cluster.sockets import Address, listen, parse_address
from ..pauses import let_sockets_run

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("theatre_gevent.admin")

MAX_CONNECTIONS = 200
"""Connections at one time; more wait in the system's queue."""

IDLE = 30.0
"""Seconds for which a connection may say nothing, or not take an answer."""

HEAD = 10.0
"""Seconds for the headers of a request, from the end of its first line."""

LARGEST_BODY = 1024 * 1024
"""Bytes of a body that are read at most, be it to throw them away: the application takes fewer."""

_SPARE = 20
"""Connections that are kept free: for each new one beyond, the one that has been idle for longest has to go."""


_MISTAKES = {
    "400": ("Bad Request", "this is no HTTP request that can be read"),
    "414": ("URI Too Long", "the request line is longer than 8 KiB"),
}


class _Server(WSGIServer):
    """Knows who has a connection and has not sent a whole request: the longest first."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connections: Pool = options["spawn"]
        self.waited_for: dict[_Handler, None] = {}

    def make_room(self) -> None:
        """Close the connection that has been idle for longest, if few more can be taken."""
        if self.connections.free_count() < _SPARE and self.waited_for:
            handler = next(iter(self.waited_for))
            del self.waited_for[handler]
            with suppress(OSError):
                handler.socket.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIHandler):
    server: _Server

    def handle(self) -> None:
        self.socket.settimeout(IDLE)
        self.server.make_room()
        super().handle()

    def read_request(self, raw_requestline: str) -> Any:
        """Read the headers.

        Raises:
            ValueError: They can't be read, or can be read in more than one way.
        """
        try:
            with Timeout(HEAD, TimeoutError("the headers took too long")):
                super().read_request(raw_requestline)
        except (HTTPException, OSError) as error:
            raise ValueError(str(error)) from None
        headers = self.headers
        lengths = headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in headers or len(lengths) > 1 or headers.defects:
            raise ValueError("no body but one of a known length is taken")
        if not all(text.isascii() and text.isdecimal() and int(text) <= LARGEST_BODY for text in lengths):
            raise ValueError(f"Content-Length must be a whole number, at most {LARGEST_BODY}")
        if not self.content_length:
            self.server.waited_for.pop(self, None)
        return True

    def handle_one_request(self) -> Any:
        """Say as JSON what was wrong, also where the application was not asked."""
        let_sockets_run()  # the next request may be there already
        self.server.waited_for[self] = None
        try:
            result = super().handle_one_request()
        finally:
            self.server.waited_for.pop(self, None)
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
        self._server = _Server(
            self._listener,
            app,
            spawn=Pool(MAX_CONNECTIONS),
            log=None,
            error_log=LoggingLogAdapter(log, logging.INFO),  # strangers' mistakes
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
