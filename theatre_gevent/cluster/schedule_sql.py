"""Schedules in Postgres: their table, and all SQL about them, as functions over one connection.

A row is claimed by a life of a host, as actors are (`postgres`): no clock takes part in who may fire it, and the claim
of a life that is over counts for nothing. What is due, and when, is said by the clock of the database alone, so that
all hosts agree on it; theirs are never asked.

Times are microseconds since the epoch. A row is changed by compare-and-set on its id and due time: what is late changes
nothing of the next due time.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from ..logic.bodies import MAX_BODY
from ..logic.envelopes import clean_text
from ..logic.schedules import Claim, Row, Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .green import GreenConnection
    from .store import Life

SCHEMA = """
CREATE TABLE schedules (
    id text COLLATE "C" PRIMARY KEY,
    actor_type text NOT NULL,
    actor_id text NOT NULL,
    sender_type text,
    sender_id text,
    body bytea NOT NULL,
    due_us bigint NOT NULL,
    at_us bigint NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    expression text,
    tz text,
    misfire text,
    host_id text COLLATE "C",
    epoch bigint,
    error text,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX schedules_at ON schedules (at_us) WHERE epoch IS NULL AND error IS NULL;
CREATE INDEX schedules_epoch ON schedules (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX schedules_error ON schedules (id) WHERE error IS NOT NULL;

-- The epochs are looked up once, before any row is waited for: what is over stays over, and a row that another host has
-- claimed meanwhile has another epoch. A function, since a planner that knows nothing of the table yet reads all of it.
CREATE FUNCTION theatre_recover_schedules() RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    freed bigint;
BEGIN
    UPDATE schedules SET host_id = NULL, epoch = NULL WHERE epoch = ANY (ARRAY(
        SELECT DISTINCT s.epoch FROM schedules s WHERE s.epoch IS NOT NULL AND NOT EXISTS (
            SELECT FROM hosts h WHERE h.host_id = s.host_id AND h.epoch = s.epoch AND h.fenced_at IS NULL
        )
    ));
    GET DIAGNOSTICS freed = ROW_COUNT;
    RETURN freed;
END $$;

COMMENT ON TABLE schedules IS
    'Messages for later. due_us: when, in microseconds since 1970. at_us: when to look at it, the same or a later '
    'attempt. host_id and epoch: which life of a host delivers it now. error: why nobody can; set it to null to have '
    'it tried again.';
"""
# Each claim leaves a dead entry at the beginning of the index on what is due: vacuumed early, so that it stays short.

_NOW = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us"

_WAITING = "epoch IS NULL AND error IS NULL"
"""As the index on what is due has it."""

_COLUMNS = (
    "id, actor_type, actor_id, sender_type, sender_id, body, due_us, attempt, expression, tz, misfire, host_id, epoch, "
    "error, at_us"
)


def now(connection: GreenConnection) -> int:
    """Return the database's time."""
    return int(connection.run(_NOW)[0][0])


def insert(connection: GreenConnection, rows: Sequence[Row]) -> dict[str, int]:
    """Write new schedules down. Those that are there already, since an answer was lost, stay as they are.

    Args:
        connection: Any.
        rows: Whose `due_us` is when they are due, or, of a single message, in how many microseconds.

    Returns:
        When each is due, of those that were not there yet.
    """
    values = ", ".join(["(%s, %s, %s, %s, %s, %s::bytea, %s::bigint, %s::integer, %s, %s, %s)"] * len(rows))
    found = connection.run(
        f"""
        INSERT INTO schedules (id, actor_type, actor_id, sender_type, sender_id, body, due_us, at_us, attempt,
            expression, tz, misfire)
        SELECT v.id, v.t, v.i, v.st, v.si, v.body, v.due, v.due, v.attempt, v.expression, v.tz, v.misfire
        FROM (
            SELECT w.id, w.t, w.i, w.st, w.si, w.body, w.attempt, w.expression, w.tz, w.misfire,
                CASE WHEN w.expression IS NULL THEN n.us + w.due ELSE w.due END AS due
            FROM (VALUES {values}) w(id, t, i, st, si, body, due, attempt, expression, tz, misfire), ({_NOW}) n
        ) v
        ON CONFLICT (id) DO NOTHING RETURNING id, due_us
        """,  # noqa: S608  # nosec B608  # constants of this module are put in
        list(
            chain.from_iterable(
                (
                    *(row.id, row.actor_type, row.actor_id, row.sender_type, row.sender_id, row.body, row.due_us),
                    *(row.attempt, row.expression, row.tz, row.misfire),
                )
                for row in rows
            )
        ),
    )
    return {row[0]: row[1] for row in found}


def claim(connection: GreenConnection, life: Life, at_most: int) -> Claim:
    """Claim what is due, the oldest first. Rows that another host is claiming are passed over.

    Returns:
        Nothing if the life is over.
    """
    found = connection.run(
        f"""
        WITH clock AS MATERIALIZED ({_NOW}), taken AS (
            UPDATE schedules SET host_id = %s, epoch = %s, attempt = attempt + 1
            WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM schedules
                WHERE epoch IS NULL AND error IS NULL AND at_us <= (SELECT us FROM clock)
                ORDER BY at_us LIMIT %s FOR UPDATE SKIP LOCKED
            )) AND EXISTS (SELECT FROM hosts WHERE host_id = %s AND epoch = %s AND fenced_at IS NULL)
            RETURNING {_COLUMNS}
        )
        SELECT clock.us, (
            SELECT at_us FROM schedules
            WHERE epoch IS NULL AND error IS NULL AND at_us > (SELECT us FROM clock) ORDER BY at_us LIMIT 1
        ), taken.* FROM clock LEFT JOIN taken ON true ORDER BY taken.due_us
        """,  # noqa: S608  # nosec B608  # constants of this module are put in
        (life.host_id, life.epoch, at_most, life.host_id, life.epoch),
    )
    rows = [_row(values[2:]) for values in found if values[2] is not None]
    return Claim(found[0][0], found[0][1], rows)


def adjust(connection: GreenConnection, epoch: int, changes: Sequence[tuple[str, int, int]]) -> None:
    """Change which due time recurring schedules that this epoch has claimed are fired for: id, old and new due time."""
    _update(connection, "due_us = v.a", "s.epoch + 0 = %s", changes, (epoch,))


def done(connection: GreenConnection, handled: Sequence[tuple[str, int, int | None]]) -> None:
    """Confirm due times: handled, or dead letters. A single message goes, a recurring one gets its next due time.

    Args:
        connection: Any.
        handled: Id, due time, and the next due time, None if there is none. May be said again.
    """
    over = sorted((key, due) for key, due, following in handled if following is None)
    if over:
        connection.run(
            "DELETE FROM schedules s USING unnest(%s::text[], %s::bigint[]) AS v(id, due) "
            "WHERE s.id = v.id AND s.due_us = v.due",
            ([key for key, _ in over], [due for _, due in over]),
        )
    going_on = [(key, due, following) for key, due, following in handled if following is not None]
    if going_on:
        change = "due_us = v.a, at_us = v.a, attempt = 0, host_id = NULL, epoch = NULL, error = NULL"
        _update(connection, change, "true", going_on)


def give_back(
    connection: GreenConnection, epoch: int, rows: Sequence[tuple[str, int, int, int]], *, untried: bool
) -> None:
    """Give claimed rows back, for another attempt.

    Args:
        connection: Any.
        epoch: Of the life that has claimed them.
        rows: Id, due time, `at_us` as it was claimed, and microseconds until the next attempt. May be said again, and
            late: of a row that has been claimed anew meanwhile, `at_us` is another one, and it stays claimed.
        untried: They have not been sent to anybody: the attempt does not count.
    """
    change = "host_id = NULL, epoch = NULL, at_us = greatest(n.us + v.b, s.at_us + 1)"
    if untried:
        change += ", attempt = s.attempt - 1"
    _update(connection, change, "s.epoch + 0 = %s AND s.at_us + 0 = v.a", rows, (epoch,))


def park(connection: GreenConnection, epoch: int, schedule_id: str, error: str) -> None:
    """Put a row aside that can't be fired, with the reason."""
    connection.run(
        "UPDATE schedules SET error = %s, host_id = NULL, epoch = NULL WHERE id = %s AND epoch = %s",
        (clean_text(error).replace("\0", "?"), schedule_id, epoch),
    )


def unpark(connection: GreenConnection) -> int:
    """Have all that was put aside tried again: a host has come that may be able to. Returns how many that are."""
    return len(connection.run("UPDATE schedules SET error = NULL WHERE error IS NOT NULL RETURNING 1"))


def recover(connection: GreenConnection) -> int:
    """Free what lives have claimed that are over. Returns how many rows that are."""
    return int(connection.run("SELECT theatre_recover_schedules()")[0][0])


def claimed(connection: GreenConnection, epoch: int) -> list[tuple[str, int, int]]:
    """Return id, due time and `at_us` of what an epoch has claimed."""
    found = connection.run("SELECT id, due_us, at_us FROM schedules WHERE epoch = %s", (epoch,))
    return [(row[0], row[1], row[2]) for row in found]


def tally(connection: GreenConnection, at_most: int) -> Tally:
    """Count schedules up to `at_most`, and find out how late those are that nobody has claimed.

    Those that wait for another attempt are looked at the next ten thousand to come, of the next minute: no attempt
    waits for longer.
    """
    ((now_us, total, due_us, next_us, retried_us),) = connection.run(
        f"""
        WITH clock AS MATERIALIZED ({_NOW})
        SELECT clock.us, (SELECT count(*) FROM (SELECT FROM schedules LIMIT %s) s), (
            SELECT min(due_us) FROM (
                SELECT due_us FROM schedules
                WHERE {_WAITING} AND at_us <= (SELECT us FROM clock) ORDER BY at_us LIMIT 1000
            ) d
        ), (
            SELECT at_us FROM schedules WHERE {_WAITING} AND at_us > (SELECT us FROM clock) ORDER BY at_us LIMIT 1
        ), (
            SELECT min(due_us) FROM (
                SELECT due_us FROM schedules
                WHERE {_WAITING} AND at_us > (SELECT us FROM clock) AND at_us <= (SELECT us + 60000000 FROM clock)
                ORDER BY at_us LIMIT 10000
            ) r WHERE due_us <= clock.us
        ) FROM clock
        """,  # noqa: S608  # nosec B608  # constants of this module are put in
        (at_most,),
    )
    return Tally(now_us, total, next_us if due_us is None else due_us, retried_us)


def cancel(connection: GreenConnection, schedule_id: str) -> bool:
    """Remove a schedule, unless it is a single message that a live host is sending.

    Returns:
        Whether that was in time: a single message that was claimed before may have been handled by a host that died
        before it could say so. One that its only claim has put aside was sent to nobody.
    """
    removed = connection.run(
        """
        DELETE FROM schedules s WHERE s.id = %s AND (s.epoch IS NULL OR s.expression IS NOT NULL OR NOT EXISTS (
            SELECT FROM hosts h WHERE h.host_id = s.host_id AND h.epoch = s.epoch AND h.fenced_at IS NULL
        )) RETURNING s.expression IS NOT NULL OR s.attempt = 0 OR (s.attempt = 1 AND s.error IS NOT NULL)
        """,
        (schedule_id,),
    )
    return bool(removed and removed[0][0])


def read(connection: GreenConnection, at_most: int, largest: int = MAX_BODY) -> list[Row]:
    """Return schedules, those that can't be fired first and then the next due ones.

    Args:
        connection: Any.
        at_most: How many.
        largest: Bytes of a body above which it is left out.
    """
    columns = _COLUMNS.replace("body", "CASE WHEN octet_length(body) <= %s THEN body END")
    # One index each: a million pending ones are not sorted for the next few.
    parts = ("error IS NOT NULL ORDER BY id", "epoch IS NOT NULL ORDER BY epoch", f"{_WAITING} ORDER BY at_us")
    rows = [
        _row(values)
        for part in parts
        for values in connection.run(f"SELECT {columns} FROM schedules WHERE {part} LIMIT %s", (largest, at_most))  # noqa: S608  # nosec B608  # constants of this module
    ]
    unique = {row.id: row for row in rows}  # one that was claimed in between is in two of them
    return sorted(unique.values(), key=lambda row: (row.error is None, row.due_us, row.id))[:at_most]


def _update(
    connection: GreenConnection,
    assignments: str,
    condition: str,
    rows: Sequence[tuple[str, int, int] | tuple[str, int, int, int]],
    arguments: tuple[object, ...] = (),
) -> None:
    columns = list(zip(*sorted(rows), strict=True))  # one order for all, so that two hosts can't deadlock
    numbers = ", ".join(["%s::bigint[]"] * (len(columns) - 1))
    names = ("id", "due", "a", "b")[: len(columns)]
    # Conditions on the epoch say plus 0, so that rows are looked up by id, and not all of the epoch's for each.
    connection.run(
        f"UPDATE schedules s SET {assignments} "  # noqa: S608  # nosec B608  # constants of this module
        f"FROM unnest(%s::text[], {numbers}) AS v({', '.join(names)}), ({_NOW}) n "
        f"WHERE s.id = v.id AND s.due_us = v.due AND {condition}",
        (*map(list, columns), *arguments),
    )


def _row(values: Sequence[Any]) -> Row:
    fields = list(values)
    if fields[5] is not None:
        fields[5] = bytes(fields[5])
    return Row(*fields)
