"""Asking the admin servers of the other hosts, within a bounded time."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import gevent
import ujson

from ..cluster.sockets import dial, parse_address, prepare
from ..errors import TheatreError
from .guard import make_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevent import Greenlet

    from .view import HostView, Peer

PATIENCE = 2.0
"""Seconds for which another host is waited for."""

HOST_HEADER = "Theatre-Host"
"""Header of every answer: the quoted id of the host that gives it."""

_LARGEST = 16 * 1024 * 1024
_MOST = 64
"""Hosts asked at the same time by one request."""


class Answer(NamedTuple):
    """What another host said.

    Attributes:
        host_id: Who was asked.
        status: Status code of the answer; 0 if there was none.
        data: The answer, if there was one.
        error: Why there was none, or that of the answer.
    """

    host_id: str
    status: int
    data: dict[str, Any]
    error: str | None


class Peers:
    """Asks the other hosts of the cluster.

    Args:
        view: This host.
        token: The `admin_token` of all hosts, None for none.
    """

    def __init__(self, view: HostView, token: str | None) -> None:
        self._view = view
        self._token = token

    def others(self) -> list[Peer]:
        """Return the other hosts."""
        return [peer for peer in self._view.peers() if peer.host_id != self._view.host_id]

    def ask(self, peers: Sequence[Peer], target: str) -> list[Answer]:
        """Ask hosts, all at the same time, and wait for them.

        Args:
            peers: Whom to ask.
            target: Path and query.

        Returns:
            What each said, in the order of `peers`.
        """
        answers: list[Answer] = []
        for start in range(0, len(peers), _MOST):
            answers += self._ask_some(peers[start : start + _MOST], target)
        return answers

    def _ask_some(self, peers: Sequence[Peer], target: str) -> list[Answer]:
        asked = [gevent.spawn(self._ask, peer, target) for peer in peers]
        gevent.joinall(asked, timeout=PATIENCE)
        gevent.killall(asked)
        return [_outcome(peer, one) for peer, one in zip(peers, asked, strict=True)]

    def _ask(self, peer: Peer, target: str) -> Answer:
        if not peer.admin_addr:
            why = "it has no admin server" if peer.connected else "it is not connected, and never said where to ask it"
            return _silent(peer, why)
        try:
            return self._talk(peer, target)
        except TheatreError as error:
            return _silent(peer, f"{peer.admin_addr}: {error}")
        except (OSError, HTTPException) as error:
            return _silent(peer, f"{peer.admin_addr}: {error or type(error).__name__}")
        except ValueError as error:
            return _silent(peer, f"its answer can't be read: {str(error)[:200]}")

    def _talk(self, peer: Peer, target: str) -> Answer:
        address = parse_address(peer.admin_addr, f"the admin address of host {peer.host_id!r}")
        connection = HTTPConnection(address.host, address.port)
        # gevent's own socket, so that an unpatched program waits cooperatively too.
        sock: Any = dial(address, PATIENCE)
        try:
            prepare(sock)
            sock.settimeout(PATIENCE)
            connection.sock = sock
            headers = {"Accept": "application/json"}
            if self._token is not None:
                headers["Authorization"] = make_proof(self._token, peer.host_id, target)
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            who = response.getheader(HOST_HEADER)
            if who != quote(peer.host_id):
                said = "something else" if who is None else f"host {who[:100]!r}"
                return _silent(peer, f"{said} answers at {peer.admin_addr}: give it an address that this host reaches")
            body = response.read(_LARGEST + 1)
            if len(body) > _LARGEST:
                return _silent(peer, f"its answer has more than {_LARGEST >> 20} MiB")
            data = ujson.loads(body)
            if not isinstance(data, dict):
                return _silent(peer, "its answer is no JSON object")
            error = str(data.get("error", response.reason)) if response.status >= 400 else None
            return Answer(peer.host_id, response.status, data, error)
        finally:
            connection.close()
            sock.close()


def _outcome(peer: Peer, asked: Greenlet[..., Answer]) -> Answer:
    answer = asked.value
    if isinstance(answer, Answer):
        return answer
    return _silent(peer, f"no answer from {peer.admin_addr} within {PATIENCE:g} s")


def _silent(peer: Peer, why: str) -> Answer:
    return Answer(peer.host_id, 0, {}, f"host {peer.host_id!r} does not answer: {why}")
