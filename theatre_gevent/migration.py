"""Preparing a database for a cluster: one public function, apart so that a host without a cluster loads no driver."""

from __future__ import annotations


def migrate_schema(dsn: str, *, timeout: float = 30.0) -> int:
    """Make the tables, or bring those of an older version up to date. Harmless when that is done already.

    Hosts may all call it when they start, at the same time: one does the work, the others wait for it.

    Args:
        dsn: Connection string of libpq. Its role needs the right to create tables in the schema that comes first in
            its `search_path`; `docs/database.md` says more, and what the role of the hosts needs.
        timeout: Seconds for each step, waiting for others included.

    Returns:
        The version of the schema, from now on.

    Raises:
        InvalidOption: `dsn` is no connection string.
        DatabaseUnavailable: The database can't be reached, or took too long; nothing was changed.
        AnswerLost: The connection was lost, perhaps after the last step: call it again.
        SchemaMismatch: The schema is of a newer version than this library knows.
        DatabaseRefused: The role lacks privileges, or other tables have these names. Nothing was changed.
    """
    from .cluster.schema import migrate

    return migrate(dsn, timeout)
