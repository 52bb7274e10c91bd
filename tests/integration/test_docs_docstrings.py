"""The code in docstrings that the API pages show runs, given what it takes for granted."""

from __future__ import annotations

import inspect
import re
import textwrap
from pydoc import locate
from typing import Any

import psycopg2

from theatre_gevent import Context, Host, Ref, Shutdown
from theatre_gevent.cluster.postgres_cluster import Cluster, ClusterConfig
from theatre_gevent.embedded import EmbeddedPostgres
from theatre_gevent.testing import ActorProbe, VirtualClock

from .documents import DOCS

FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")


def pieces() -> dict[str, str]:
    """Return the code in docstrings that pages show, by what the docstring is of."""
    found = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            shown = locate(path)
            assert shown is not None, path
            of: dict[str, object] = {path: shown}
            if inspect.isclass(shown):
                of.update({f"{path}.{name}": member for name, member in vars(shown).items() if name[0] != "_"})
            for name, each in of.items():
                text = (inspect.getdoc(each) or "") + "\n" if callable(each) else ""
                for code in [*FENCED.findall(text), *INDENTED.findall(text)]:
                    assert name not in found, name
                    found[name] = textwrap.dedent(code)
    return found


PIECES = {name.rpartition(".")[2]: code for name, code in pieces().items()}


def run(name: str, of: str, to: str = "", after: str = "", **given: Any) -> None:
    """Run the code of `name`, with `to` for `of` and `after` at its end; `given` is what it takes for granted."""
    code = PIECES[name]
    assert code.count(of) == 1
    exec(compile(code.replace(of, to) + after, f"<{name}>", "exec"), given)  # noqa: S102 - our own docstring


def test_each_has_a_test() -> None:
    assert set(PIECES) == {"VirtualClock", "ActorProbe", "Cluster", "EmbeddedPostgres"}


def test_virtual_clock() -> None:
    seen: list[object] = []

    def work(host: Host) -> None:
        host.register_actor("idle", lambda ctx: seen.append(ctx.message))
        host.spawn_local(Ref("idle", "1"))

    def check() -> None:
        assert Shutdown() in seen

    given: dict[str, Any] = {"Host": Host, "VirtualClock": VirtualClock, "work": work, "check": check}
    run("VirtualClock", "...", "work(host)", "    check()\n", **given)


def test_actor_probe() -> None:
    def count(ctx: Context) -> None:
        if isinstance(ctx.message, str):
            ctx.send(Ref("audit", "1"), "incremented")

    with Host() as host:
        host.register_actor("counter", count)
        run("ActorProbe", "probe = ", "probe = ", ActorProbe=ActorProbe, host=host, Ref=Ref)


def test_cluster(dsn: str) -> None:
    given: dict[str, Any] = {"Cluster": Cluster, "ClusterConfig": ClusterConfig, "Host": Host, "dsn": dsn}

    def work(host: Host) -> None:
        with host:
            host.register_actor("echo", lambda ctx: ctx.reply(ctx.message))
            assert host.request(Ref("echo", "1"), "hello") == "hello"

    run("Cluster", "cluster = ", "cluster = ", "work(host)\n", work=work, **given)


def test_embedded_postgres() -> None:
    asked: list[object] = []

    def connect(dsn: str) -> None:
        connection = psycopg2.connect(dsn)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            asked.append(cursor.fetchone())
        connection.close()

    run("EmbeddedPostgres", "psycopg2.connect", "connect", EmbeddedPostgres=EmbeddedPostgres, connect=connect)
    assert asked == [(1,)]
