"""Hosts in gunicorn's workers: hooks for `gunicorn.conf.py`.

    from theatre_gevent.contrib.gunicorn import GunicornHooks

    theatre = GunicornHooks("shop.actors:register")
    on_starting, on_reload, on_exit = theatre.on_starting, theatre.on_reload, theatre.on_exit
    post_worker_init, worker_exit = theatre.post_worker_init, theatre.worker_exit

Every worker gets a host of its own, started when gevent has patched the worker and the application is loaded, and
stopped when the worker has answered its last request. The hosts of all workers are a cluster with Postgres, so that
each answers for any actor. The application finds its host in `environ["theatre.host"]`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import re
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from .. import forking, monkey
from ..clock import SystemClock
from ..config import HostOptions
from ..embedded import EmbeddedPostgres, EmbeddedPostgresError
from ..errors import AnswerLost, DatabaseUnavailable, InvalidOption, TheatreError
from ..host import Host
from ..logs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ENVIRON_KEY: Final = "theatre.host"
"""Where a WSGI application finds the host of its worker."""

EMBEDDED: Final = "embedded"
"""Value of `dsn` for a private PostgreSQL, which the master starts and which ends with it."""

VARIABLE: Final = "THEATRE_DSN"
"""The environment variable that names the database when the option `dsn` does not."""

_CONNECTIONS_PER_WORKER = 40  # a host's own, the application's, and twice as many workers during a reload
_RETRY = 0.5  # seconds between attempts to start while the database is away
_MAX_PREFIX = 150  # characters of a host id's readable part
_ASYNC = "is an async function, which hosts do not await: write def instead"

# What libpq and the server say of a log-in that will be refused again. They give no code with it, and other words where
# the server speaks another language than English: then the worker waits.
_REFUSALS = re.compile(
    r'(password|peer|ident) authentication failed for user|no password supplied|(database|role) ".*" does not exist'
    r'|role ".*" is not permitted to log in|permission denied for database'
    r"|no pg_hba\.conf entry for|pg_hba\.conf rejects",
    re.IGNORECASE,
)


class GunicornError(TheatreError, RuntimeError):
    """A host can't run in gunicorn like this: the deployment's mistake, the text says what to do instead."""


class GunicornHooks:
    """The hooks of `gunicorn.conf.py` that give every worker a host.

    Args:
        setup: Registers the actors: a plain function that is called with the host before it starts, or its name,
            `"module:function"`, which is imported in the worker and so comes anew with every reload, unless the master
            has the module already, as with `preload_app`. It may be called several times in a worker if the database
            is away.
        name: What the hosts' ids begin with.
        dsn: The database, `"embedded"` for a private one; by default what `THEATRE_DSN` names, else a private one.
        listen: Where a worker's host listens for the others. The port is 0: each worker takes a free one.
        **options: Other options of `Host`; `advertise` and `admin_addr` have port 0 as well.

    Raises:
        InvalidOption: An option is unknown or out of range, or can't be the same for several workers; the database's
            connection string is none; `setup` is an async function.
    """

    def __init__(
        self,
        setup: str | Callable[[Host], object],
        *,
        name: str = "web",
        dsn: str | None = None,
        listen: str = "127.0.0.1:0",
        **options: Any,
    ) -> None:
        self._setup: str | Callable[[Host], object] = _check_setup(setup)
        self._name = name
        self._dsn = dsn or os.environ.get(VARIABLE) or EMBEDDED
        self._options = {**options, "listen": listen}
        self._check()

    def _check(self) -> None:
        options = self._options
        for option in ("host_id", "peers"):
            if option in options:
                raise InvalidOption(
                    f"{option} can't be given here: every worker has an id and a port of its own, and workers find "
                    "each other in the database"
                )
        if not isinstance(self._name, str) or not self._name:
            raise InvalidOption(f"name must be a non-empty string, got {self._name!r}")
        HostOptions.from_mapping({**options, "dsn": self._dsn})
        if self._dsn != EMBEDDED:
            from ..cluster.dsn import parse  # only who names a database needs its driver in the master

            parse(self._dsn)
        for option in ("listen", "advertise", "admin_addr"):
            address = options.get(option)
            if address is not None and int(address.rpartition(":")[2]) != 0:
                raise InvalidOption(
                    f"{option} must have port 0, got {address!r}: several workers run side by side, and while gunicorn "
                    "reloads the old ones beside the new; each takes a free port"
                )

    # -- in the master ---------------------------------------------------------------------------------------------

    def on_starting(self, server: Any) -> None:
        """Refuse hosts that were started too early, and start the private database if there is one.

        Raises:
            GunicornError: A host was started in the master, or there can be no private database.
        """
        self._refuse(forking.running())
        if server.cfg.preload_app and not monkey.is_patched():
            server.log.warning(
                "preload_app loads the application before gevent has patched the standard library: thread-locals that "
                "it makes, such as those of bottle.request, are shared by all requests of a worker. Begin "
                "gunicorn.conf.py with: from theatre_gevent import monkey; monkey.patch_all()"
            )
        if self._dsn == EMBEDDED and server.master_pid:
            raise GunicornError(
                "a private PostgreSQL belongs to one master, and USR2 starts a second one, which can't share it: name "
                f"a database in {VARIABLE}"
            )
        self._share(server)

    def on_reload(self, server: Any) -> None:
        """Have the workers to come use the private database of those that go.

        Raises:
            GunicornError: A host was started in the master, or there can be no private database.
        """
        self._refuse(forking.running())
        self._share(server)

    def on_exit(self, server: Any) -> None:
        """End the private database, when all workers have gone."""
        postgres = vars(server).pop("theatre_postgres", None)
        if postgres is not None:
            postgres.stop()

    def _share(self, server: Any) -> None:
        if self._dsn != EMBEDDED:
            return
        # A reload reads the configuration anew, and with it makes new hooks: only the server is still the same.
        postgres = vars(server).get("theatre_postgres")
        if postgres is None:
            connections = max(200, _CONNECTIONS_PER_WORKER * int(server.cfg.workers))
            postgres = EmbeddedPostgres(settings={"max_connections": connections})
            try:
                postgres.start()
            except EmbeddedPostgresError as error:
                raise GunicornError(f"{error}; or name a database in {VARIABLE}") from error
            server.theatre_postgres = postgres
            server.log.info("theatre_gevent: a private PostgreSQL runs until gunicorn ends; its data goes with it")
        self._dsn = postgres.dsn

    # -- in a worker -----------------------------------------------------------------------------------------------

    def post_worker_init(self, worker: Any) -> None:
        """Start the worker's host and hand it to the application.

        While the database is away it waits, so that a worker which is replaced then does not end the whole server. It
        does not wait for a database that refuses to let it in: a wrong password, role or database. That is known by
        what the server says in English, and only where the connection string names one server.

        Raises:
            GunicornError: The worker is not gevent's, a host was started before the fork, the hook of the master that
                starts the private database is missing, `setup` is an async function, or the database refuses the
                log-in.
            TheatreError: The host can't start, for a reason that does not pass by itself.
        """
        kind = type(worker)
        if not monkey.is_patched() or "gunicorn.workers.ggevent" not in {base.__module__ for base in kind.__mro__}:
            raise GunicornError(
                f"hosts need gevent's workers, and this is a {kind.__name__}: run gunicorn with -k gevent"
            )
        self._refuse(forking.inherited())
        if self._dsn == EMBEDDED:
            raise GunicornError(
                "the private PostgreSQL was not started: gunicorn.conf.py lacks on_starting and on_reload of "
                "GunicornHooks"
            )
        monkey.patch_all()  # gunicorn has patched the standard library, not psycopg2
        host = self._started(worker)
        worker.theatre_host = host
        worker.wsgi = WithHost(worker.wsgi, host)
        worker.log.info(
            "theatre_gevent: host %s at %s%s",
            host.host_id,
            host.address,
            f", dashboard at http://{host.admin_address}/" if host.admin_address else "",
        )

    def worker_exit(self, server: Any, worker: Any) -> None:
        """Stop the worker's host: what it has accepted is finished, its actors go to the other workers."""
        host: Host | None = vars(worker).pop("theatre_host", None)
        if host is not None:
            host.stop()

    def _started(self, worker: Any) -> Host:
        setup, clock = self._resolved(), SystemClock()
        while True:
            host = Host(host_id=new_host_id(self._name), dsn=self._dsn, **self._options)
            made = setup(host)
            if inspect.isawaitable(made) or inspect.isasyncgen(made):
                if inspect.iscoroutine(made):
                    made.close()
                raise GunicornError(f"{_name(setup)} {_ASYNC}")
            _log_beside(worker.log)  # after it, since it may have configured logging
            try:
                return host.start()
            except (DatabaseUnavailable, AnswerLost) as error:
                if self._is_refused(error):
                    raise GunicornError(f"the worker's host can't start: {error}") from error
                worker.log.warning("theatre_gevent: the worker's host can't start yet: %s", error)
            clock.sleep(_RETRY)
            if not worker.alive:
                sys.exit(0)
            worker.notify()

    def _resolved(self) -> Callable[[Host], object]:
        if not isinstance(self._setup, str):
            return self._setup
        module, _, function = self._setup.partition(":")
        found = getattr(importlib.import_module(module), function, None)
        if not callable(found):
            raise GunicornError(f"setup names {self._setup!r}, and {module} has no function {function!r}")
        if _is_async(found):
            raise GunicornError(f"{self._setup} {_ASYNC}")
        return cast("Callable[[Host], object]", found)

    def _is_refused(self, error: TheatreError) -> bool:
        """Tell whether the database will never let the workers in."""
        from ..cluster.dsn import effective, parse

        parameters = parse(self._dsn)
        # Of several servers only the last one's reason is known, and another one may merely be away.
        several = any("," in effective(parameters, name) for name in ("host", "hostaddr"))
        return not several and _REFUSALS.search(str(error)) is not None

    def _refuse(self, hosts: list[str]) -> None:
        if hosts:
            raise GunicornError(
                f"host {', '.join(hosts)} was started before gunicorn forks its workers, which can't share it: its "
                "sockets, greenlets and lease belong to the master. With preload_app the application is imported in "
                "the master, so it must not start a host: give GunicornHooks a function that registers the actors, and "
                f"take the worker's host from environ[{ENVIRON_KEY!r}]"
            )


class WithHost:
    """A WSGI application that finds the worker's host in its environ.

    Args:
        app: The application.
        host: The host.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], host: Host) -> None:
        self._app = app
        self._host = host

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        environ[ENVIRON_KEY] = self._host
        return self._app(environ, start_response)


def _log_beside(log: Any) -> None:
    """Have what the library logs in gunicorn's error log, unless the application has handlers of its own."""
    library = logging.getLogger(ROOT)
    handlers = library.handlers + logging.getLogger().handlers
    if all(isinstance(handler, logging.NullHandler) for handler in handlers):
        for handler in log.error_log.handlers:
            library.addHandler(handler)


def new_host_id(name: str) -> str:
    """Return the id of a worker's host: readable, and never used before.

    One that comes again, a number of the worker for instance, would be in use still: while gunicorn reloads by the old
    worker, and after a crash of the machine until the database has noticed.
    """
    prefix = f"{name}-{socket.gethostname()}"[:_MAX_PREFIX]
    return f"{prefix}-{os.getpid()}-{secrets.token_hex(4)}"


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _check_setup(setup: object) -> Any:
    if isinstance(setup, str):
        module, colon, function = setup.partition(":")
        if colon and module and function.isidentifier():
            return setup
    elif callable(setup):
        if _is_async(setup):
            raise InvalidOption(f"setup: {_name(setup)} {_ASYNC}")
        return setup
    raise InvalidOption(f"setup must be a function or its name, 'module:function', got {setup!r}")


__all__ = ["EMBEDDED", "ENVIRON_KEY", "VARIABLE", "GunicornError", "GunicornHooks", "WithHost", "new_host_id"]
