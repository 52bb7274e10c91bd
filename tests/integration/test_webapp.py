"""The example's web application without gunicorn: what clients get while a cart can't be asked."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import ujson
from gevent.event import Event

from tests.support import in_background, until
from theatre_gevent import Context, Host, InboxFull, Ref

webapp: Any = importlib.import_module("examples.webapp.app")  # to mypy the examples are programs, not a package
CART = Ref("cart", "ann")


class Counting:
    """A worker's host; counts the refusals that requests got."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.full = 0

    def request(self, ref: Ref, body: object, timeout: float) -> Any:
        try:
            return self._host.request(ref, body, timeout=timeout)
        except InboxFull:
            self.full += 1
            raise


class Busy:
    """A cart that handles nothing until it is let, and whose inbox is full."""

    def __init__(self) -> None:
        self.began, self.go = Event(), Event()
        self.host = Host(actor_inbox_size=1).start()
        self.host.register_actor("cart", self._handle)
        self.host.send(CART, "hold")
        assert self.began.wait(20)
        self.host.send(CART, "hold")  # this one fills the inbox

    def _handle(self, ctx: Context) -> None:
        if ctx.message == "hold":
            self.began.set()
            self.go.wait()
        elif ctx.message == "show":
            ctx.reply({"items": {}, "count": 0, "pid": 1})


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    monkeypatch.setattr(webapp, "ATTEMPT", 0.05)
    made = Busy()
    yield made
    made.go.set()
    made.host.stop()


def get(path: str, host: Any) -> tuple[str, bytes]:
    """Ask the application as a WSGI server does; returns status and body."""
    statuses: list[str] = []
    errors = io.StringIO()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SERVER_NAME": "shop",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": errors,
        "theatre.host": host,
    }
    body = b"".join(webapp.app(environ, lambda status, headers, _=None: statuses.append(status)))
    assert errors.getvalue() == ""
    return statuses[0], body


def test_a_request_waits_for_a_cart_whose_inbox_is_full(busy: Busy) -> None:
    host = Counting(busy.host)
    task = in_background(get, "/carts/ann", host)
    until(lambda: host.full > 1)
    busy.go.set()
    status, body = task.get(timeout=20)
    assert status == "200 OK"
    assert ujson.loads(body)["count"] == 0


def test_a_cart_that_stays_full_is_a_503(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webapp, "PATIENCE", 0.2)
    host = Counting(busy.host)
    status, body = get("/carts/ann", host)
    assert status == "503 Service Unavailable"
    assert b"cart/ann does not answer: " in body
    assert host.full > 0
