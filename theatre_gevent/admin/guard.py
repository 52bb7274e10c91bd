"""Who may ask what: tokens, names in the Host header, and what a web page of somebody else's could make a browser do.

Without a token the server is for programs of this machine (the options see to that, unless `admin_insecure` says that
everybody may look), and the danger is a web page in a browser there. A page can't read the answer to a request that
goes elsewhere, unless its own name is made to lead here (DNS rebinding): then the Host header holds that name. So
without a token only IP addresses, `localhost`, this machine's own name and those in the options are answered. Health is
told under any name: it is one line, which drives nothing, and load balancers ask for it by names of their own. With a
token, whoever asks for more than health and the dashboard's own files needs it, which no page of somebody else's can
know, and any name will do, a proxy's for instance.

Hosts ask each other with a proof instead of the token: it says which host is asked for what, so that who gets it can
do nothing with it but ask that host the same again.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

PROOF_SCHEME = "Theatre-Peer"
"""Scheme of the Authorization header with which hosts ask each other."""

OPEN_PATHS = ("/healthz", "/readyz")
"""Answered without a token and by any name: they say one line, and who asks them often can't choose what to send."""


class Refusal(NamedTuple):
    """Status code and text of an answer to who may not ask."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


def make_proof(token: str, host_id: str, target: str) -> str:
    """Return the value of the Authorization header with which one host asks another.

    Args:
        token: The `admin_token` of both.
        host_id: Who is asked.
        target: Path and query.
    """
    said = f"theatre admin 1\n{host_id}\n{target}".encode()
    return f"{PROOF_SCHEME} {hmac.new(token.encode(), said, hashlib.sha256).hexdigest()}"


class Guard:
    """Checks requests.

    Args:
        host_id: This host's id, for proofs.
        token: The `admin_token`, None for none.
        names: Names by which the server may be asked, beside this machine's.
    """

    def __init__(self, host_id: str, token: str | None, names: Iterable[str] = ()) -> None:
        self._host_id = host_id
        self._token = token
        self._names = {_plain(name) for name in ("localhost", socket.gethostname(), *names)}

    def refuse(self, environ: dict[str, Any]) -> Refusal | None:
        """Return why a request is not answered, None if it is."""
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if environ.get("HTTP_SEC_FETCH_SITE") == "cross-site" and not _is_navigation(environ, method):
            return Refusal(403, "this was asked by a page of another site")
        if self._token is None and path not in OPEN_PATHS:
            name = _name_of(environ.get("HTTP_HOST", ""))
            if name and not self._is_known(name):  # browsers always send one
                text = f"the Host header says {name[:100]!r}: without an admin_token"
                return Refusal(403, f"{text}, only IP addresses and the names of this machine and host are answered")
        if self._token is None or path in OPEN_PATHS or _is_static(path):
            return None
        said = environ.get("HTTP_AUTHORIZATION", "")
        target = path + ("?" + environ["QUERY_STRING"] if environ.get("QUERY_STRING") else "")
        if self._has_token(said) or _same(said, make_proof(self._token, self._host_id, target)):
            return None
        return self._unauthorized()

    def refuse_order(self, environ: dict[str, Any]) -> Refusal | None:
        """Return why an order is not carried out that `refuse` has let through, None if it is.

        Asked by what carries orders out, for a path may be written in more ways than one.
        """
        if self._token is None:
            return Refusal(403, "this changes the host, which needs a token: set admin_token")
        if not self._has_token(environ.get("HTTP_AUTHORIZATION", "")):
            return self._unauthorized()
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return Refusal(415, f"the content type must be application/json, got {kind[:100]!r}")
        return None

    def _has_token(self, said: str) -> bool:
        scheme, _, token = said.partition(" ")
        return self._token is not None and scheme.lower() == "bearer" and _same(token.strip(), self._token)

    def _unauthorized(self) -> Refusal:
        return Refusal(
            401,
            "the header 'Authorization: Bearer ...' with the admin_token is needed",
            (("WWW-Authenticate", 'Bearer realm="theatre_gevent"'),),
        )

    def _is_known(self, name: str) -> bool:
        if _plain(name) in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _name_of(host: str) -> str:
    """Return a Host header without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_static(path: str) -> bool:
    return path in ("", "/") or path.startswith("/static/")


def _is_navigation(environ: dict[str, Any], method: str) -> bool:
    """Tell whether somebody followed a link here, which shows them a page and gives the other site nothing."""
    return method == "GET" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
