"""Clusters of real processes over Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.pg_cluster import PgCluster
from tests.postgres import Databases
from theatre_gevent.embedded import EmbeddedPostgres


@pytest.fixture
def cluster(tmp_path: Path, dsn: str) -> Iterator[PgCluster]:
    """A cluster without hosts yet; at the end it is stopped and judged."""
    with PgCluster(tmp_path, dsn) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server for one module alone, which pauses, restarts and kills it."""
    with EmbeddedPostgres() as own:
        yield own


@pytest.fixture
def fragile(tmp_path: Path, server: EmbeddedPostgres) -> Iterator[PgCluster]:
    """A cluster in a database of the module's own server."""
    databases = Databases(server.dsn)
    try:
        with PgCluster(tmp_path, databases.create()) as made:
            yield made
    finally:
        server.resume()  # a test that has failed may have left it in any state
        server.restart()
        databases.drop_all()
