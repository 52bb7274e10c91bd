"""A shop in which every cart is an actor, in any number of gunicorn workers. README.md beside it says how to run it.

    POST /carts/CART/items    {"item": "tea", "key": "..."}    adds one; the same key again adds nothing
    GET  /carts/CART                                           what is in it, and which process has it

The cart is in the memory of one worker, the actor's; all others ask it there. Before it acknowledges an item it writes
it into the database, so that the cart comes back with everything acknowledged when its worker dies.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from bottle import Bottle, HTTPError, request
from gevent.queue import LifoQueue

from theatre_gevent import (
    Context,
    Host,
    HostNotRunning,
    InboxFull,
    Initialize,
    NoOwner,
    Ref,
    RemoteActorError,
    RequestTimeout,
)

PATIENCE = 20.0
"""Seconds that a client may wait: more than it takes until a dead worker's carts come alive elsewhere."""

ATTEMPT = 5.0
"""Seconds for one attempt to ask a cart. One that was with a worker when it was killed gets no answer."""

CONNECTIONS = 4

TABLE = "CREATE TABLE IF NOT EXISTS cart_items (cart text, key text, item text NOT NULL, PRIMARY KEY (cart, key))"
LOCK = 7_264_001
"""Held while the table is made, since all workers may do so at once."""


class Storage:
    """Where carts are kept: a few connections of this worker. A greenlet that finds none free waits for one."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._free: LifoQueue[Any] = LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put(None)  # connected when it is needed

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        connection = self._free.get()
        try:
            if connection is None:
                connection = psycopg2.connect(self._dsn)
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
                    cursor.execute(TABLE)
                    cursor.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
            with connection.cursor() as cursor:
                yield cursor
        except BaseException:
            if connection is not None:
                connection.close()  # who knows what state it is in
            connection = None
            raise
        finally:
            self._free.put(connection)

    def load(self, cart: str) -> dict[str, str]:
        """Return the items of a cart by their keys."""
        with self._cursor() as cursor:
            cursor.execute("SELECT key, item FROM cart_items WHERE cart = %s", (cart,))
            return dict(cursor.fetchall())

    def add(self, cart: str, key: str, item: str) -> None:
        """Write down an item, once for each key."""
        with self._cursor() as cursor:
            cursor.execute("INSERT INTO cart_items VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (cart, key, item))


class Cart:
    """One at a time: no locks, and no transactions over several statements."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._items: dict[str, str] = {}

    def receive(self, ctx: Context) -> None:
        cart = ctx.actor_ref.id
        match ctx.message:
            case Initialize():
                self._items = self._storage.load(cart)
            case {"add": item, "key": key}:
                if key not in self._items:
                    self._storage.add(cart, key, item)
                    self._items[key] = item
                ctx.reply(len(self._items))
            case "show":
                ctx.reply({"items": dict(Counter(self._items.values())), "count": len(self._items), "pid": os.getpid()})


def register(host: Host) -> None:
    """Tell a worker's host about the actors; `gunicorn.conf.py` names this function."""
    assert host.options.dsn is not None
    storage = Storage(host.options.dsn)
    host.register_actor("cart", lambda: Cart(storage))


def ask(cart: str, body: object) -> Any:
    """Ask a cart, wherever it is, and again if need be: asking twice does no harm, because items have keys."""
    host: Host = request.environ["theatre.host"]
    ref = Ref("cart", cart)
    deadline = time.monotonic() + PATIENCE
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            return host.request(ref, body, timeout=min(ATTEMPT, left))
        except (RequestTimeout, InboxFull, NoOwner, HostNotRunning, RemoteActorError) as error:
            if time.monotonic() >= deadline:
                raise HTTPError(503, f"{ref} does not answer: {error}") from error
        time.sleep(0.1)


def add(cart: str) -> dict[str, Any]:
    given = request.json
    item = given.get("item") if isinstance(given, dict) else None
    if not isinstance(item, str):
        raise HTTPError(
            400, 'the body must be JSON such as {"item": "tea", "key": "order-1-line-2"}; the key may be left out'
        )
    key = str(given.get("key") or uuid.uuid4())
    return {"key": key, "count": ask(cart, {"add": item, "key": key})}


def show(cart: str) -> dict[str, Any]:
    contents: dict[str, Any] = ask(cart, "show")
    return {**contents, "asked": os.getpid()}


app = Bottle()
app.route("/carts/<cart>/items", "POST", add)
app.route("/carts/<cart>", "GET", show)
