"""The schema: migrations that come at once, that fail, that are too new; a role that may do no more than it must."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from tests.integration.postgres_support import Cluster, cluster, refs
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import DatabaseRefused, SchemaMismatch, migrate_schema
from theatre_gevent.cluster import postgres, schedule_sql, schema
from theatre_gevent.cluster.green import connect
from theatre_gevent.cluster.store import Life
from theatre_gevent.logic.schedules import Row

__all__ = ["cluster"]

PASSWORD = secrets.token_hex(8)
DOCUMENT = Path(__file__).parents[2] / "docs" / "database.md"


def tables(dsn: str) -> set[str]:
    return {row[0] for row in execute(dsn, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")}


def test_migrating_again_changes_nothing(dsn: str) -> None:
    assert migrate_schema(dsn) == schema.VERSION
    before = tables(dsn), execute(dsn, "SELECT * FROM theatre_schema")
    assert migrate_schema(dsn) == schema.VERSION
    assert (tables(dsn), execute(dsn, "SELECT * FROM theatre_schema")) == before
    assert {"hosts", "actor_ownership", "theatre_schema"} <= before[0]


def test_ten_hosts_migrate_at_once(dsn: str) -> None:
    tasks = [in_background(migrate_schema, dsn) for _ in range(10)]
    assert [task.get() for task in tasks] == [schema.VERSION] * 10
    rows = execute(dsn, "SELECT version FROM theatre_schema ORDER BY 1")
    assert rows == [(version,) for version in range(1, schema.VERSION + 1)]


def test_each_version_follows_from_the_one_before(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate_schema(dsn)
    more = (*schema.MIGRATIONS, "CREATE TABLE theatre_more (x int); INSERT INTO theatre_more VALUES (1)")
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    monkeypatch.setattr(schema, "VERSION", len(more))
    with pytest.raises(SchemaMismatch, match=rf"of version {len(more) - 1}, and this library needs {len(more)}"):
        schema.check_schema(connect(dsn))
    tasks = [in_background(migrate_schema, dsn) for _ in range(4)]
    assert [task.get() for task in tasks] == [len(more)] * 4
    assert execute(dsn, "SELECT * FROM theatre_more") == [(1,)]
    schema.check_schema(connect(dsn))


def test_a_migration_that_fails_leaves_nothing_behind(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables(dsn)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE theatre_more (); SELECT 1 / 0"))
    with pytest.raises(DatabaseRefused, match="division by zero"):
        migrate_schema(dsn)
    assert tables(dsn) == before
    monkeypatch.undo()
    migrate_schema(dsn)


def test_somebody_elses_table_is_left_alone(dsn: str) -> None:
    execute(dsn, "CREATE TABLE hosts (name text)")
    before = tables(dsn)
    with pytest.raises(DatabaseRefused, match='relation "hosts" already exists'):
        migrate_schema(dsn)
    assert tables(dsn) == before


def test_a_newer_schema_is_refused(dsn: str) -> None:
    migrate_schema(dsn)
    execute(dsn, "INSERT INTO theatre_schema (version) VALUES (%s)", schema.VERSION + 5)
    words = (
        rf"schema is of version {schema.VERSION + 5}, and this library knows those up to {schema.VERSION}: update it"
    )
    with pytest.raises(SchemaMismatch, match=words):
        migrate_schema(dsn)
    with pytest.raises(SchemaMismatch, match=words):
        schema.check_schema(connect(dsn))


def test_a_database_without_tables_is_told_from_one_with(dsn: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"not there yet: call theatre_gevent.migrate_schema\(dsn\)"):
        schema.check_schema(connect(dsn))
    migrate_schema(dsn)
    schema.check_schema(connect(dsn))


def test_a_schema_of_its_own_holds_a_cluster(dsn: str) -> None:
    execute(dsn, "CREATE SCHEMA stage")
    inside = make_dsn(dsn, options="-c search_path=stage")
    migrate_schema(inside)
    migrate_schema(dsn)
    ours, theirs = connect(inside), connect(dsn)
    life = Life("a", postgres.next_epoch(ours))
    postgres.register(ours, life, "127.0.0.1:1", 3.0)
    assert len(postgres.claim(ours, life, 1, refs(3)).mine) == 3
    assert postgres.hosts(theirs) == []
    assert postgres.owners(theirs, refs(3)) == {}


def test_a_database_of_another_encoding_is_refused(dsn: str) -> None:
    name = f"theatre_test_{secrets.token_hex(8)}"
    execute(dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with pytest.raises(DatabaseRefused, match="must keep text as UTF8, its encoding is SQL_ASCII"):
            migrate_schema(make_dsn(dsn, dbname=name))
    finally:
        execute(dsn, f"DROP DATABASE {name} WITH (FORCE)")


# -- privileges ------------------------------------------------------------------------------------------------


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    """A role that may do nothing but connect."""
    name = f"theatre_test_{secrets.token_hex(8)}"
    cluster.admin.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    cluster.admin.run("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    cluster.admin.run("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    yield name
    cluster.admin.run(f"DROP OWNED BY {name}")
    cluster.admin.run(f"DROP ROLE {name}")


def documented(role_in_document: str) -> list[str]:
    """The GRANTs in the document for a role."""
    blocks = re.findall(r"^```sql\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.endswith(f" TO {role_in_document};")]
    assert lines
    return lines


def do_what_hosts_do(cluster: Cluster, dsn: str) -> None:
    """Every statement there is, on a connection of `dsn`."""
    connection = connect(dsn, statement_timeout=20.0)
    schema.check_schema(connection)
    lost = connect(dsn, statement_timeout=20.0)
    pid = postgres.open_session(lost, 3.0)
    assert postgres.try_lock(lost, "a")
    holder = postgres.lock_holder(connection, "a")
    assert holder is not None
    assert holder.pid == pid
    postgres.end_session(connection, pid)
    until(lambda: postgres.try_lock(connection, "a"))
    postgres.listen(connection)
    life = Life("a", postgres.next_epoch(connection))
    postgres.register(connection, life, "127.0.0.1:1", 3.0)
    life, previous = Life("a", postgres.next_epoch(connection)), life
    postgres.register(connection, life, "127.0.0.1:1", 3.0, previous_epoch=previous.epoch)
    assert postgres.renew(connection, life) == 1
    dead = cluster.life("dead")
    postgres.claim(cluster.admin, dead, 1, refs(2))
    assert postgres.fence(connection, dead, 0)
    assert len(postgres.claim(connection, life, 1, refs(4)).mine) == 4
    assert len(postgres.claim(connection, life, 2, refs(4), [1, 1, 0, 0]).mine) == 4
    assert len(postgres.owners(connection, refs(4))) == 4
    assert postgres.release(connection, life, 2, refs(1)) == 1
    schedule_sql.insert(connection, [Row("1", "t", "i", None, None, b"", 0)])
    assert [row.id for row in schedule_sql.claim(connection, life, 10).rows] == ["1"]
    assert schedule_sql.recover(connection) == 0
    assert schedule_sql.cancel(connection, "1") is False
    ((key, due, _),) = schedule_sql.claimed(connection, life.epoch)
    schedule_sql.done(connection, [(key, due, None)])
    assert postgres.set_leaving(connection, life)
    assert len(postgres.hosts(connection)) == 1
    assert postgres.resign(connection, life) == 3
    assert postgres.forget_fenced(connection, keep=0.0) == 3
    postgres.notify(connection, "bye")
    connection.close()


def test_a_role_with_the_documented_privileges_can_run_a_host(cluster: Cluster, role: str) -> None:
    own = make_dsn(cluster.dsn, user=role, password=PASSWORD)
    for grant in documented("theatre_app"):
        cluster.admin.run(grant.replace("theatre_app", role))
    do_what_hosts_do(cluster, own)
    for more in ("DROP TABLE hosts", "TRUNCATE hosts", "DELETE FROM theatre_schema", "CREATE TABLE x ()"):
        with pytest.raises(DatabaseRefused, match=r"42501: (permission denied|must be owner)"):
            connect(own).run(more)


def test_each_documented_privilege_is_needed(cluster: Cluster, role: str) -> None:
    own = make_dsn(cluster.dsn, user=role, password=PASSWORD)
    grants = documented("theatre_app")
    for missing in grants:
        cluster.admin.run(f"DROP OWNED BY {role}")
        for grant in grants:
            if grant != missing:
                cluster.admin.run(grant.replace("theatre_app", role))
        with pytest.raises((DatabaseRefused, SchemaMismatch)):
            do_what_hosts_do(cluster, own)
        cluster.admin.run("DELETE FROM hosts")
        cluster.admin.run("DELETE FROM actor_ownership")
        cluster.admin.run("DELETE FROM schedules")


def test_a_role_that_may_create_tables_can_migrate(dsn: str) -> None:
    name = f"theatre_test_{secrets.token_hex(8)}"
    execute(dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    own = make_dsn(dsn, user=name, password=PASSWORD)
    try:
        execute(dsn, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        with pytest.raises(DatabaseRefused, match=r"42501|3F000"):
            migrate_schema(own)
        for grant in documented("theatre_admin"):
            execute(dsn, grant.replace("theatre_admin", name))
        assert migrate_schema(own) == schema.VERSION
    finally:
        execute(dsn, f"DROP OWNED BY {name}")
        execute(dsn, f"DROP ROLE {name}")
