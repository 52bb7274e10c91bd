"""The real gunicorn, with a host in every worker: reloads, workers that die, preload_app, clients that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from tests.integration.documents import DOCS, blocks
from tests.integration.gunicorn_support import ROOT, START, Client, Gunicorn, Shoppers, kill_with_connections
from tests.postgres import execute
from tests.support import until
from theatre_gevent import DatabaseUnavailable
from theatre_gevent.clock import SystemClock
from theatre_gevent.cluster.green import connect
from theatre_gevent.contrib.gunicorn import GunicornHooks
from theatre_gevent.embedded import EmbeddedPostgres

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gunicorn needs fork")

LOAD = 30.0
"""Seconds of load, with a reload when a third of them is over."""
EXAMPLE = ("-w", "3", "-c", "examples/webapp/gunicorn.conf.py", "examples.webapp.app:app")
OVER = "has not renewed its lease and is declared over"
now = SystemClock().monotonic


def check_carts(server: Gunicorn, shoppers: Shoppers) -> None:
    """What was acknowledged is in the carts, once, and they hold nothing that nobody put in."""
    assert shoppers.done() > 100
    for cart in shoppers.carts:
        shown = server.ask("GET", f"/carts/{cart}")
        assert shown["pid"] in server.workers()
        assert set(shown["items"].values()) == {1}
        assert shoppers.acknowledged[cart] <= set(shown["items"]) <= shoppers.tried[cart]


@pytest.mark.timeout(150)  # 40 s on a machine that has nothing else to do, most of them the load
def test_a_reload_under_load_fails_no_request(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, *EXAMPLE, env={"THEATRE_DSN": None}) as server:
        began = now()
        shoppers = Shoppers(server.port, count=6, carts=40)
        until(lambda: now() > began + LOAD / 3, START)
        old = server.workers()
        assert len(old) == 3
        server.master.send_signal(signal.SIGHUP)
        until(lambda: server.started() == 6 and len(server.workers()) == 3 and not old & server.workers(), START)
        until(lambda: now() > began + LOAD, START)
        shoppers.stop()
        assert shoppers.failed == {}
        assert OVER not in server.log.read_text()  # the old workers' hosts have stopped and given back what they had
        assert all(shoppers.acknowledged[cart] == shoppers.tried[cart] for cart in shoppers.carts)
        check_carts(server, shoppers)
        private = [child for child in server.master.children() if "supervisor.py" in " ".join(child.cmdline())]
        assert len(private) == 1  # one database, that of before the reload; all processes are gone at the end


def test_a_killed_worker_fails_only_the_requests_that_it_had(tmp_path: Path, dsn: str) -> None:
    with Gunicorn(tmp_path, *EXAMPLE, env={"THEATRE_DSN": dsn}) as server:
        shoppers = Shoppers(server.port, count=6, carts=20)
        until(lambda: all(shoppers.acknowledged[cart] for cart in shoppers.carts), START)
        homes = {cart: server.ask("GET", f"/carts/{cart}")["pid"] for cart in shoppers.carts}
        assert set(homes.values()) == server.workers()  # they share the carts
        victim = homes[shoppers.carts[0]]
        orphans = [cart for cart, home in homes.items() if home == victim]
        held = kill_with_connections(victim)
        before = {cart: len(shoppers.acknowledged[cart]) for cart in orphans}
        until(lambda: server.started() == 4 and len(server.workers()) == 3, START)
        until(lambda: all(len(shoppers.acknowledged[cart]) > before[cart] for cart in orphans), START)
        shoppers.stop()
        assert shoppers.failed.keys() <= held, shoppers.failed
        assert OVER in server.log.read_text()
        check_carts(server, shoppers)


APP = """
    from pathlib import Path
    from bottle import Bottle, request
    import gevent
    from theatre_gevent import Ref

    events = []

    def register(host):
        def slow(ctx):
            if ctx.message == "work":
                events.append("began")
                try:
                    until = Path(__file__).with_name("go")
                    while not until.exists():
                        gevent.sleep(0.01)
                    events.append("finished")
                except BaseException as error:
                    events.append(repr(error))
                    raise
                ctx.reply("done")
        host.register_actor("slow", slow)

    app = Bottle()

    @app.post("/work")
    def work():
        return {"answer": request.environ["theatre.host"].request(Ref("slow", "1"), "work", timeout=30)}

    @app.get("/events")
    def show():
        return {"events": events}
"""

ON_STARTING, SETUP = "on_starting = theatre.on_starting\n", "shop.actors:register"


def page() -> str:
    """The configuration that docs/gunicorn.md shows, for the applications of these tests."""
    (source,) = [block.source for block in blocks(DOCS / "gunicorn.md") if "GunicornHooks(" in block.source]
    assert source.count(SETUP) == source.count(ON_STARTING) == source.count("monkey.patch_all()") == 1
    return source.replace(SETUP, "shop:register")


CONF = page()


def write(folder: Path, **files: str) -> str:
    """Write Python files; returns the path of `conf`."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return str(folder / "conf.py")


def test_under_preload_app_a_client_that_leaves_interrupts_no_actor_and_a_killed_worker_is_replaced(
    tmp_path: Path, dsn: str
) -> None:
    conf = write(tmp_path, shop=APP, conf=CONF)
    args = ("--preload", "-w", "1", "-c", conf, "shop:app")
    with Gunicorn(tmp_path, *args, env={"THEATRE_DSN": dsn}, workers=1) as server:
        client = Client(server.port)
        client.send("POST", "/work")
        until(lambda: server.ask("GET", "/events") == {"events": ["began"]})
        client.close()
        assert server.ask("GET", "/events") == {"events": ["began"]}
        (tmp_path / "go").touch()
        until(lambda: server.ask("GET", "/events") == {"events": ["began", "finished"]})
        assert server.ask("POST", "/work") == {"answer": "done"}  # it takes the next message

        (victim,) = server.workers()
        os.kill(victim, signal.SIGKILL)
        until(lambda: server.started() == 2 and len(server.workers()) == 1, START)
        assert victim not in server.workers()
        assert server.ask("GET", "/events") == {"events": []}


def test_while_the_database_is_away_a_worker_waits_and_the_server_goes_on(tmp_path: Path) -> None:
    conf = write(tmp_path, shop=APP, conf=CONF)
    away: dict[str, str | None] = {"THEATRE_DSN": "postgresql://nobody@127.0.0.1:1/none"}
    with Gunicorn(tmp_path, "-w", "1", "-c", conf, "shop:app", env=away, workers=0) as server:
        until(lambda: server.log.read_text().count("the worker's host can't start yet") >= 3, START)
        assert len(server.workers()) == 1
        assert server.log.read_text().count("Booting worker") == 1


def test_a_database_that_refuses_the_log_in_ends_the_server(tmp_path: Path, dsn: str) -> None:
    conf = write(tmp_path, shop=APP, conf=CONF)
    said = refusal(tmp_path, "-k", "gevent", "-c", conf, dsn=make_dsn(dsn, dbname="no_such_database"))
    assert "the worker's host can't start: no connection to the database: FATAL: database \"no_such_database\"" in said
    assert "can't start yet" not in said
    assert parse_dsn(dsn).get("password", "nothing") not in said


@pytest.fixture(scope="module")
def strict() -> Iterator[EmbeddedPostgres]:
    """A server that lets nobody in who is not known to it."""
    with EmbeddedPostgres() as server:
        for statement in (
            "CREATE ROLE retired NOLOGIN",
            "CREATE ROLE clerk LOGIN PASSWORD 'clerk'",
            "ALTER DATABASE template1 CONNECTION LIMIT 0",
            "CREATE DATABASE closed",
            "REVOKE CONNECT ON DATABASE closed FROM public",
            "CREATE DATABASE busy CONNECTION LIMIT 0",
            "CREATE DATABASE maintained ALLOW_CONNECTIONS false",
        ):
            execute(server.dsn, statement)
        yield server


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"password": "wrong"}, True),
        ({"dbname": "nowhere"}, True),
        ({"user": "nobody"}, True),
        ({"user": "retired"}, True),
        ({"user": "clerk", "password": "clerk", "dbname": "closed"}, True),
        ({"user": "clerk", "password": ""}, True),
        ({"user": "clerk", "password": "clerk", "dbname": "busy"}, False),
        ({"dbname": "maintained"}, False),
        ({"port": "1"}, False),
        ({"host": "127.0.0.1,127.0.0.1", "password": "wrong"}, False),
    ],
    ids=str,
)
def test_a_worker_waits_for_what_passes_alone(
    strict: EmbeddedPostgres, changes: dict[str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    given = make_dsn(strict.dsn, **changes)
    with pytest.raises(DatabaseUnavailable) as caught:
        connect(given)
    assert GunicornHooks(SETUP, dsn=given)._is_refused(caught.value) == refused


ASYNC = """
    app = lambda *args: None

    async def register(host):
        host.register_actor("slow", lambda ctx: None)
"""


def test_an_async_setup_ends_the_server(tmp_path: Path) -> None:
    conf = write(tmp_path, shop=ASYNC, conf=CONF)
    said = refusal(tmp_path, "-k", "gevent", "-c", conf)
    assert "GunicornError: shop:register is an async function, which hosts do not await: write def instead" in said


def refusal(folder: Path, *args: str, dsn: str = "postgresql://nobody@127.0.0.1:1/none") -> str:
    """Run a gunicorn that does not start; returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "-w", "1", *args, "shop:app"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "THEATRE_DSN": dsn, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr


EARLY = """
    from theatre_gevent import Host

    host = Host(host_id="early").start()
    app = register = lambda *args: None
"""


def test_a_host_that_the_application_starts_in_the_master_is_refused(tmp_path: Path) -> None:
    conf = write(tmp_path, shop=EARLY, conf=CONF)
    said = refusal(tmp_path, "-k", "gevent", "--preload", "-c", conf)
    assert "Error: host early was started before gunicorn forks its workers, which can't share it" in said
    assert "Traceback" not in said
    # Who has no hook in the master is told by the worker.
    conf = write(tmp_path, conf=CONF.replace(ON_STARTING, ""))
    said = refusal(tmp_path, "-k", "gevent", "--preload", "-c", conf)
    assert "host early was started before gunicorn forks its workers, which can't share it" in said


def test_workers_that_are_not_gevents_are_refused(tmp_path: Path) -> None:
    conf = write(tmp_path, shop="app = register = lambda *args: None", conf=CONF.replace("monkey.patch_all()", ""))
    assert "hosts need gevent's workers, and this is a SyncWorker" in refusal(tmp_path, "-k", "sync", "-c", conf)


@pytest.mark.parametrize(("name", "kind"), [("sync", "SyncWorker"), ("gthread", "ThreadWorker")])
def test_they_are_refused_though_the_configuration_patches(tmp_path: Path, name: str, kind: str) -> None:
    conf = write(tmp_path, shop="app = register = lambda *args: None", conf=CONF)
    said = refusal(tmp_path, "-k", name, "-c", conf)
    assert f"hosts need gevent's workers, and this is a {kind}: run gunicorn with -k gevent" in said
