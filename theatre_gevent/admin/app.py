"""The admin server's WSGI application."""

from __future__ import annotations

import logging
from importlib import resources
from io import StringIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import bottle
import ujson

from ..errors import HostNotRunning, TheatreError
from ..logs import fields
from .guard import Guard, Refusal
from .parameters import BadParameter, read
from .peers import HOST_HEADER, Peers
from .prometheus import new_registry, render
from .views import VIEWS, NotAnswered, View, Views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .view import HostView

log = logging.getLogger("theatre_gevent.admin")

_LARGEST_BODY = 64 * 1024

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

# The dashboard is made of its own files alone: no script of anybody's can run in it, wherever it came from.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


class Application:
    """Serves one host over WSGI.

    Args:
        view: The host.
        token: The `admin_token`, None for none.
        names: Names by which the server may be asked, beside this machine's.
    """

    def __init__(self, view: HostView, token: str | None = None, names: Iterable[str] = ()) -> None:
        self._view = view
        self._guard = Guard(view.host_id, token, names)
        self._views = Views(view, Peers(view, token))
        self._registry = new_registry(view)
        self._files = _dashboard()
        self._headers = {
            HOST_HEADER: quote(view.host_id),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self._app = app = bottle.Bottle()
        for one in VIEWS:
            app.route(one.path, "GET", self._endpoint(one))
        app.route("/metrics", "GET", self._metrics)
        app.route("/healthz", "GET", lambda: self._health(self._view.stuck))
        app.route("/readyz", "GET", lambda: self._health(self._view.unready))
        app.route("/cluster/drain", "POST", lambda: self._order(lambda: self._view.run(self._drain)))
        app.route("/cluster/freeze", "POST", lambda: self._order(self._freeze))
        app.route("/", "GET", lambda: self._file("index.html"))
        app.route("/static/<name:path>", "GET", self._file)
        app.default_error_handler = self._error

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        refusal = self._guard.refuse(environ)
        if refusal is not None:
            response = self._refusal(refusal)
            start_response(response.status_line, response.headerlist)
            return [response.body] if environ["REQUEST_METHOD"] != "HEAD" else []
        environ["wsgi.errors"] = StringIO()  # bottle writes there what `_error` logs
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    # -- answers -----------------------------------------------------------------------------------------------

    def _json(self, data: dict[str, Any], status: int = 200, **headers: str) -> bottle.HTTPResponse:
        body = ujson.dumps(data, escape_forward_slashes=False).encode("utf-8", "replace")
        return self._response(body, "application/json", status, _DATA_POLICY, **headers)

    def _response(
        self, body: bytes, content_type: str, status: int = 200, policy: str = _DATA_POLICY, **headers: str
    ) -> bottle.HTTPResponse:
        response = bottle.HTTPResponse(body, status)
        response.set_header("Content-Type", content_type)
        response.set_header("Content-Length", str(len(body)))
        response.set_header("Cache-Control", "no-store")
        response.set_header("Content-Security-Policy", policy)
        for name, value in (*self._headers.items(), *headers.items()):
            response.set_header(name.replace("_", "-"), value)
        return response

    def _refusal(self, refusal: Refusal) -> bottle.HTTPResponse:
        response = self._json({"error": refusal.text}, refusal.status)
        for name, value in refusal.headers:
            response.set_header(name, value)
        return response

    def _error(self, error: bottle.HTTPError) -> str:
        """Say as JSON what bottle found: no such address, wrong method, or a mistake in here."""
        status = error.status_code
        request, response = bottle.request, bottle.response
        if status == 404:
            text = f"there is nothing at {request.path[:200]!r}"
        elif status == 405:
            text = f"{request.path!r} takes {error.headers.get('Allow', 'other methods')}, not {request.method}"
            response.set_header("Allow", error.headers.get("Allow", ""))
        else:
            text = "the admin server failed; the log tells more" if status >= 500 else str(error.body)
        if error.exception is not None:
            log.error("%s %s failed", request.method, request.path, exc_info=error.exception)
        response.content_type = "application/json"
        for name, value in (*self._headers.items(), ("Cache-Control", "no-store")):
            response.set_header(name, value)
        body: str = ujson.dumps({"error": text}, escape_forward_slashes=False)
        return body

    # -- addresses ---------------------------------------------------------------------------------------------

    def _endpoint(self, view: View) -> Callable[[], bottle.HTTPResponse]:
        def answer() -> bottle.HTTPResponse:
            try:
                given = read(bottle.request.query_string, view.parameters)
                return self._json(self._view.run(self._views.answer, view, given))
            except BadParameter as error:
                return self._json({"error": str(error), "parameter": error.name}, 400)
            except ValueError as error:
                return self._json({"error": str(error)}, 400)
            except NotAnswered as error:
                status = error.answer.status
                return self._json({"error": str(error)}, status if 400 <= status < 500 and status != 401 else 502)
            except TheatreError as error:
                return self._json({"error": str(error)}, 503)

        return answer

    def _metrics(self) -> bottle.HTTPResponse:
        accept = bottle.request.environ.get("HTTP_ACCEPT", "")  # as it came: it need not be UTF-8
        try:
            body, content_type = self._view.run(render, self._registry, accept)
        except TheatreError as error:
            return self._json({"error": str(error)}, 503)
        return self._response(body, content_type)

    def _health(self, reason: Callable[[], str | None]) -> bottle.HTTPResponse:
        try:
            why = self._view.run(reason)
        except TheatreError as error:
            why = str(error)
        if why is None:
            return self._json({"status": "ok"})
        return self._json({"status": "unavailable", "reason": why}, 503)

    def _order(self, carry_out: Callable[[], str]) -> bottle.HTTPResponse:
        request = bottle.request
        refusal = self._guard.refuse_order(request.environ)
        if refusal is not None:
            return self._refusal(refusal)
        try:
            length = request.content_length
        except ValueError:  # a server that we are mounted in may pass on anything
            return self._json({"error": "the header Content-Length must be a whole number"}, 400)
        if length > _LARGEST_BODY:
            return self._json({"error": f"the body must have at most {_LARGEST_BODY} bytes"}, 413)
        try:
            body = request.body.read(_LARGEST_BODY)
            if body.strip() and ujson.loads(body) != {}:
                raise ValueError("something else")
        except ValueError:
            return self._json({"error": "the body must be empty or {}"}, 400)
        try:
            return self._json({"host_id": self._view.host_id, "state": carry_out()}, 202)
        except HostNotRunning as error:
            return self._json({"error": str(error)}, 409)
        except TheatreError as error:
            return self._json({"error": str(error)}, 503)

    def _drain(self) -> str:
        if self._view.state() in ("new", "stopped"):
            raise HostNotRunning(f"host {self._view.host_id} can't drain: it is {self._view.state()}")
        log.warning(
            "host %s drains: the admin server was told to", self._view.host_id, extra=fields(self._view.host_id)
        )
        self._view.drain()
        return "draining"

    def _freeze(self) -> str:
        log.warning(
            "host %s freezes: the admin server was told to", self._view.host_id, extra=fields(self._view.host_id)
        )
        self._view.freeze()
        return self._view.state()

    def _file(self, name: str) -> bottle.HTTPResponse:
        found = self._files.get(name)
        if found is None:
            raise bottle.HTTPError(404)
        content_type = _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        return self._response(found, content_type, policy=_PAGE_POLICY, Cache_Control="no-cache")


def _dashboard() -> dict[str, bytes]:
    """Return the dashboard's files by name: all of them, read once, so that no request names a path."""
    folder = resources.files(__package__).joinpath("dashboard")
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
