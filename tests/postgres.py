"""A PostgreSQL server for tests: a given one or a private one, and databases in it."""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn
from typing_extensions import Self

from theatre_gevent.embedded import EmbeddedPostgres

VARIABLE = "THEATRE_TEST_DSN"


class Server:
    """The server of a whole run; without programs of PostgreSQL tests fail, saying what to install: none is skipped.

    Attributes:
        dsn: How to connect as somebody who may create databases.
        embedded: The private server, None when one was given.
    """

    def __init__(self) -> None:
        given = os.environ.get(VARIABLE)
        self.embedded = None if given else EmbeddedPostgres()
        self.dsn = given or ""

    def __enter__(self) -> Self:
        if self.embedded is not None:
            self.dsn = self.embedded.start().dsn
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.embedded is not None:
            self.embedded.stop()


class Databases:
    """Makes fresh databases in a server, and drops them.

    Args:
        dsn: How to connect to the server as somebody who may create databases.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._names: list[str] = []

    def create(self) -> str:
        """Make an empty database and return how to connect to it."""
        name = f"theatre_test_{secrets.token_hex(8)}"
        # Not from template1: who happens to be connected to it would make this fail.
        execute(self._dsn, f"CREATE DATABASE {name} TEMPLATE template0")
        self._names.append(name)
        return make_dsn(self._dsn, dbname=name)

    def drop_all(self) -> None:
        """Drop what was made, whoever is still connected."""
        while self._names:
            execute(self._dsn, f"DROP DATABASE {self._names.pop()} WITH (FORCE)")


def execute(dsn: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement, committed by itself, on a connection of its own; return its rows."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []
