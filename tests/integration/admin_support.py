"""Asking an admin server, over a real connection."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPMessage
from typing import Any, NamedTuple
from urllib.parse import urlencode

import ujson

from theatre_gevent import Host


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: HTTPMessage
    text: str

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object."""
        assert self.headers["Content-Type"] == "application/json", self
        data: dict[str, Any] = ujson.loads(self.text)
        return data


def ask(
    host: Host,
    path: str,
    /,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: str | None = None,
    **query: Any,
) -> Reply:
    """Send one request to the admin server of `host`."""
    assert host.admin_address is not None
    name, _, port = host.admin_address.rpartition(":")
    connection = HTTPConnection(name, int(port), timeout=20)
    try:
        target = path + ("?" + urlencode(query) if query else "")
        connection.request(method, target, body=body, headers=headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read().decode())
    finally:
        connection.close()


def get(host: Host, path: str, /, **query: Any) -> dict[str, Any]:
    """Return the JSON object at an address of a host that answers."""
    reply = ask(host, path, **query)
    assert reply.status == 200, reply
    return reply.data
