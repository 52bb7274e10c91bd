"""The tables, and how a database gets from no tables or older ones to those that this version works with.

`docs/database.md` says which privileges the hosts' role needs, and which the role that migrates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import schedule_sql
from .green import connect
from .store import SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .green import GreenConnection

_LOCK = 0x7468_6561_7472_6501  # held by who migrates: "theatre" and a 1; any number that nobody else takes would do

_HOSTS = """
CREATE SEQUENCE theatre_epochs AS bigint;

CREATE TABLE hosts (
    host_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    address text NOT NULL,
    admin_addr text,
    lease_duration double precision NOT NULL CHECK (lease_duration > 0),
    renewals bigint NOT NULL DEFAULT 0,
    lease_expiry timestamptz NOT NULL,
    leaving boolean NOT NULL DEFAULT false,
    fenced_at timestamptz,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (host_id, epoch)
) WITH (fillfactor = 50);
COMMENT ON TABLE hosts IS
    'Lives of hosts. One with fenced_at is over for ever, and so is one without a row. lease_expiry is for people.';
"""
# Room on each page, so that a renewal changes no index.

_OWNERSHIP = """
CREATE TABLE actor_ownership (
    actor_type text COLLATE "C" NOT NULL,
    actor_id text COLLATE "C" NOT NULL,
    host_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    claimed_at timestamptz NOT NULL,
    claim bigint NOT NULL,
    reason smallint NOT NULL,
    PRIMARY KEY (actor_type, actor_id)
);
COMMENT ON TABLE actor_ownership IS
    'Which life of a host owns an actor. reason: 1 new, 2 reactivation, 3 failover. claim: what wrote the row last.';
"""
# No index on the epoch: it would cost each claim a third more, and a takeover twice as much. What it would be good for
# happens when a host stops and now and then: then the table is read whole.

# Each statement of a plpgsql function sees what was committed before it, under READ COMMITTED, and that is what the
# claim is built on: a single statement would judge owners by a snapshot from before it waited for a row.
#
# Claims and releases can't deadlock. All of them lock rows in the order of the primary key, and only one phase of a
# claim waits for what others insert or delete, its first, in which it has locked nothing yet; who has locked a row
# waits for other rows only. That is why a row that vanishes in between is left to another call: inserting it now
# would be that first phase again, with rows locked.
#
# Rows are looked up one by one, LATERAL with LIMIT, then by their place in the table, which can't change once they
# are locked. A join would be planned by what the tables were like some time ago: with an index on the epoch, 5 000 rows
# of an epoch of which there were none when the table was last analysed took 17 s instead of 40 ms.
_CLAIM = """
CREATE FUNCTION theatre_claim(
    claimer text, claimer_epoch bigint, number bigint, types text[], ids text[], again bigint[]
) RETURNS TABLE (place bigint, owner text, owner_epoch bigint, why smallint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    made bigint;
    told_places bigint[]; told_owners text[]; told_epochs bigint[]; told_reasons smallint[];
    open_places bigint[]; open_types text[]; open_ids text[]; open_again bigint[];
    rows tid[]; dead tid[]; own tid[]; kept tid[];
BEGIN
    IF NOT EXISTS (
        SELECT FROM hosts h WHERE h.host_id = claimer AND h.epoch = claimer_epoch AND h.fenced_at IS NULL
    ) THEN
        RETURN QUERY SELECT -1::bigint, claimer, claimer_epoch, 0::smallint;
        RETURN;
    END IF;

    INSERT INTO actor_ownership (actor_type, actor_id, host_id, epoch, claimed_at, claim, reason)
        SELECT a.t, a.i, claimer, claimer_epoch, clock_timestamp(), number, 1
        FROM unnest(types, ids) AS a(t, i) ORDER BY a.t COLLATE "C", a.i COLLATE "C"
        ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made = cardinality(types) THEN
        RETURN QUERY SELECT 0::bigint, claimer, claimer_epoch, 1::smallint;
        RETURN;
    END IF;

    -- What was there before is told at once if its owner lives and is another: no lock is needed for that.
    SELECT array_agg(r.n) FILTER (WHERE r.told), array_agg(r.host_id) FILTER (WHERE r.told),
        array_agg(r.epoch) FILTER (WHERE r.told),
        array_agg(CASE WHEN r.ours THEN 1 ELSE 0 END::smallint) FILTER (WHERE r.told),
        array_agg(r.n) FILTER (WHERE NOT r.told), array_agg(r.asked_at) FILTER (WHERE NOT r.told),
        array_agg(r.t) FILTER (WHERE NOT r.told), array_agg(r.i) FILTER (WHERE NOT r.told)
    INTO told_places, told_owners, told_epochs, told_reasons, open_places, open_again, open_types, open_ids
    FROM (
        SELECT a.t, a.i, a.asked_at, a.n, o.host_id, o.epoch, o.ours,
            CASE WHEN o.ours THEN o.claim = number ELSE o.alive END AS told
        FROM unnest(types, ids, again) WITH ORDINALITY AS a(t, i, asked_at, n)
        CROSS JOIN LATERAL (
            SELECT x.host_id, x.epoch, x.claim, x.host_id = claimer AND x.epoch = claimer_epoch AS ours, EXISTS (
                SELECT FROM hosts h WHERE h.host_id = x.host_id AND h.epoch = x.epoch AND h.fenced_at IS NULL
            ) AS alive
            FROM actor_ownership x WHERE x.actor_type = a.t AND x.actor_id = a.i LIMIT 1
        ) o
    ) r;
    IF told_places IS NOT NULL THEN
        RETURN QUERY SELECT * FROM unnest(told_places, told_owners, told_epochs, told_reasons);
    END IF;
    IF open_places IS NULL THEN
        RETURN;
    END IF;

    -- The rest is locked by key alone, whoever owns it, and judged by a statement that begins after the last lock.
    SELECT array_agg(r.n), array_agg(r.asked_at), array_agg(r.row) INTO open_places, open_again, rows
    FROM (
        SELECT a.n, a.asked_at, o.row
        FROM (
            SELECT * FROM unnest(open_types, open_ids, open_places, open_again) AS b(t, i, n, asked_at)
            ORDER BY b.t COLLATE "C", b.i COLLATE "C" OFFSET 0
        ) a
        CROSS JOIN LATERAL (
            SELECT x.ctid AS row FROM actor_ownership x WHERE x.actor_type = a.t AND x.actor_id = a.i
            LIMIT 1 FOR UPDATE
        ) o
    ) r;
    IF rows IS NULL THEN
        RETURN;
    END IF;
    SELECT array_agg(r.row) FILTER (WHERE r.verdict = 3), array_agg(r.row) FILTER (WHERE r.verdict = 2),
        array_agg(r.row) FILTER (WHERE r.verdict = 1),
        array_agg(r.n), array_agg(CASE WHEN r.verdict = 0 THEN r.host_id ELSE claimer END),
        array_agg(CASE WHEN r.verdict = 0 THEN r.epoch ELSE claimer_epoch END),
        array_agg(CASE r.verdict WHEN 1 THEN r.reason ELSE r.verdict END::smallint)
    INTO dead, own, kept, told_places, told_owners, told_epochs, told_reasons
    FROM (
        SELECT a.n, a.row, o.host_id, o.epoch, o.reason, CASE
            WHEN o.host_id = claimer AND o.epoch = claimer_epoch THEN
                CASE WHEN o.claim > number OR (a.asked_at > 0 AND o.claim >= a.asked_at) THEN 1 ELSE 2 END
            WHEN o.alive THEN 0
            ELSE 3 END AS verdict
        FROM unnest(open_places, open_again, rows) AS a(n, asked_at, row)
        CROSS JOIN LATERAL (
            SELECT x.host_id, x.epoch, x.claim, x.reason, EXISTS (
                SELECT FROM hosts h WHERE h.host_id = x.host_id AND h.epoch = x.epoch AND h.fenced_at IS NULL
            ) AS alive
            FROM actor_ownership x WHERE x.ctid = a.row LIMIT 1
        ) o
    ) r;
    IF dead IS NOT NULL THEN
        UPDATE actor_ownership SET host_id = claimer, epoch = claimer_epoch, claimed_at = clock_timestamp(),
            claim = number, reason = 3 WHERE ctid = ANY (dead);
    END IF;
    IF own IS NOT NULL THEN
        UPDATE actor_ownership SET claimed_at = clock_timestamp(), claim = number, reason = 2 WHERE ctid = ANY (own);
    END IF;
    IF kept IS NOT NULL THEN
        UPDATE actor_ownership SET claim = greatest(claim, number) WHERE ctid = ANY (kept);
    END IF;
    RETURN QUERY SELECT * FROM unnest(told_places, told_owners, told_epochs, told_reasons);
END $$;
"""

_RELEASE = """
CREATE FUNCTION theatre_release(holder text, holder_epoch bigint, number bigint, types text[], ids text[])
RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    rows tid[];
    gone bigint;
BEGIN
    SELECT array_agg(o.row) INTO rows
    FROM (
        SELECT * FROM unnest(types, ids) AS b(t, i) ORDER BY b.t COLLATE "C", b.i COLLATE "C" OFFSET 0
    ) a
    CROSS JOIN LATERAL (
        SELECT x.ctid AS row FROM actor_ownership x WHERE x.actor_type = a.t AND x.actor_id = a.i
            AND x.host_id = holder AND x.epoch = holder_epoch AND x.claim <= number
        LIMIT 1 FOR UPDATE
    ) o;
    IF rows IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM actor_ownership WHERE ctid = ANY (rows);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
"""

MIGRATIONS: Sequence[str] = (_HOSTS + _OWNERSHIP + _CLAIM + _RELEASE, schedule_sql.SCHEMA)
"""What leads from each version of the schema to the next, the first from nothing to 1. Only ever added to."""

VERSION = len(MIGRATIONS)
"""The version that this code works with."""


def migrate(dsn: str, timeout: float) -> int:
    """Do what `theatre_gevent.migrate_schema` says."""
    connection = connect(dsn, statement_timeout=timeout)
    try:
        connection.run("BEGIN ISOLATION LEVEL READ COMMITTED")
        connection.run("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        present = _version(connection)
        _check_not_newer(present)
        if present == 0:
            connection.run(
                "CREATE TABLE theatre_schema (version integer PRIMARY KEY, "
                "migrated_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
        for version, statements in enumerate(MIGRATIONS[present:], present + 1):
            connection.run(statements)
            connection.run("INSERT INTO theatre_schema (version) VALUES (%s)", (version,))
        connection.run("COMMIT")
    finally:
        connection.close()
    return VERSION


def check_schema(connection: GreenConnection) -> None:
    """See whether the database has the schema that this code works with.

    Raises:
        SchemaMismatch: It has none, or one of another version; the text says what to do.
        DatabaseError: The database could not be asked.
    """
    present = _version(connection)
    _check_not_newer(present)
    if present < VERSION:
        what = f"of version {present}, and this library needs {VERSION}" if present else "not there yet"
        raise SchemaMismatch(f"the database's schema is {what}: call theatre_gevent.migrate_schema(dsn)")


def _version(connection: GreenConnection) -> int:
    if connection.run("SELECT to_regclass('theatre_schema')")[0][0] is None:
        return 0
    return int(connection.run("SELECT coalesce(max(version), 0) FROM theatre_schema")[0][0])


def _check_not_newer(present: int) -> None:
    if present > VERSION:
        raise SchemaMismatch(
            f"the database's schema is of version {present}, and this library knows those up to {VERSION}: update it"
        )
