"""All SQL of the cluster: functions over one connection, each of them a transaction by itself.

They work in greenlets and in native threads alike, and raise the errors of `theatre_gevent.cluster.store`. Safety
rests on no wall clock, neither a host's nor the database's:

- A life of a host is over when its row says `fenced_at` or is gone, and never comes back.
- Who has seen `renewals` unchanged for a life's own lease duration, by a monotonic clock, may fence that life, by
  compare-and-set. Its host counted the lease from before it sent the last renewal, so it has stopped earlier.
- Nobody takes an actor from a life that is not over.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from ..messages import InitReason
from .store import AnswerLost, Claimed, HostFenced, HostRow, Life, LockHolder, Ownership

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..messages import Ref
    from .green import GreenConnection

CHANNEL = "theatre_hosts"
"""Where changes of the membership are announced."""

MAX_REF_BYTES = 2600
"""Type and id of a ref in UTF-8, together: a Postgres index takes no more (2 704 bytes, with what it adds itself)."""

_KEY = "%s # 'hosts'::regclass::oid::bigint"
"""Of the lock. The table's own number keeps clusters apart that live in other schemas of the same database."""
_ROUNDS = 10  # of a claim whose rows came and went meanwhile; one more is already rare
_RESIGN_READ = (
    50_000  # refs that are read at once to give them back: each time the table is read whole, so many at once
)
_MAX_NUMBER = (1 << 63) - 1
_REASONS = {1: InitReason.NEW, 2: InitReason.REACTIVATION, 3: InitReason.FAILOVER}


# -- hosts -----------------------------------------------------------------------------------------------------


def next_epoch(connection: GreenConnection) -> int:
    """Return an epoch that is above all that were given out before, to whatever host."""
    return int(connection.run("SELECT nextval('theatre_epochs')")[0][0])


def try_lock(connection: GreenConnection, host_id: str) -> bool:
    """Take the lock of a host id, for as long as the connection lives. Does not wait.

    Returns:
        False: another connection has it.
    """
    return bool(connection.run(f"SELECT pg_try_advisory_lock({_KEY})", (lock_key(host_id),))[0][0])


def lock_holder(connection: GreenConnection, host_id: str) -> LockHolder | None:
    """Return who has the lock of a host id, None if nobody has it."""
    rows = connection.run(
        "SELECT a.pid, a.application_name, host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "  # noqa: S608  # nosec B608  # only a constant of this module is put in
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        f"AND ((l.classid::bigint << 32) | l.objid::bigint) = ({_KEY})",
        (lock_key(host_id),),
    )
    return LockHolder(*rows[0]) if rows else None


def end_session(connection: GreenConnection, pid: int) -> None:
    """End a session of the same role: one that its client has lost, and that holds a lock."""
    connection.run("SELECT pg_terminate_backend(%s)", (pid,))


def open_session(connection: GreenConnection, patience: float) -> int:
    """Prepare a connection that is kept for long.

    Args:
        connection: A new one.
        patience: Seconds after which the server shall notice, about, that this machine is gone, and drop its locks.

    Returns:
        The process id of the session at the server.
    """
    probe = max(1, int(patience / 4))
    rows = connection.run(
        "SELECT pg_backend_pid(), set_config('tcp_keepalives_idle', %s, false), "
        "set_config('tcp_keepalives_interval', %s, false), set_config('tcp_keepalives_count', '3', false), "
        "set_config('tcp_user_timeout', %s, false)",
        (str(probe), str(probe), str(int(patience * 1000))),
    )
    return int(rows[0][0])


def lock_key(host_id: str) -> int:
    """Return the number that stands for a host id in Postgres' advisory locks, 64 bits with a sign."""
    digest = blake2b(host_id.encode("utf-8", "surrogatepass"), digest_size=8, person=b"theatre host").digest()
    return int.from_bytes(digest, "big", signed=True)


def register(
    connection: GreenConnection,
    life: Life,
    address: str,
    lease_duration: float,
    *,
    admin_addr: str | None = None,
    previous_epoch: int | None = None,
) -> None:
    """Begin a life of a host, and tell the others.

    After an `AnswerLost`, register the next epoch, with the lost one as `previous_epoch`.

    Args:
        connection: Which has the lock of the host id.
        life: With an epoch from `next_epoch`.
        address: Where other hosts reach it.
        lease_duration: Seconds without a renewal after which others may declare it dead.
        admin_addr: Address of its admin server.
        previous_epoch: An earlier life of this very process whose lease has ended by its own clock, or which it never
            used: it is fenced at the same moment.
    """
    connection.run(
        """
        WITH over AS (
            UPDATE hosts SET fenced_at = clock_timestamp() WHERE host_id = %s AND epoch = %s AND fenced_at IS NULL
        ), begun AS (
            INSERT INTO hosts (host_id, epoch, address, admin_addr, lease_duration, lease_expiry)
            VALUES (%s, %s, %s, %s, %s, clock_timestamp() + %s * interval '1 second') RETURNING epoch
        )
        SELECT pg_notify(%s, 'registered ' || epoch) FROM begun
        """,
        (
            *(life.host_id, previous_epoch),
            *(life.host_id, life.epoch, address, admin_addr, lease_duration, lease_duration),
            CHANNEL,
        ),
    )


def renew(connection: GreenConnection, life: Life) -> int | None:
    """Renew the lease of a life. The caller counts it from before the call, by its own clock.

    Returns:
        How often it has been renewed; None: it is over, for ever.
    """
    rows = connection.run(
        "UPDATE hosts SET renewals = renewals + 1, "
        "lease_expiry = clock_timestamp() + lease_duration * interval '1 second' "
        "WHERE host_id = %s AND epoch = %s AND fenced_at IS NULL RETURNING renewals",
        (life.host_id, life.epoch),
    )
    return int(rows[0][0]) if rows else None


def set_leaving(connection: GreenConnection, life: Life) -> bool:
    """Say that a host leaves and wants nothing new, and tell the others. False: its life is over."""
    return _change(connection, "SET leaving = true", "leaving", "true", life)


def fence(connection: GreenConnection, life: Life, renewals: int) -> bool:
    """Declare a life over, unless it has been renewed since; and tell the others.

    Args:
        connection: Of whoever has seen `renewals` unchanged for the life's own lease duration, by a monotonic clock.
        life: Whose lease has run out.
        renewals: What it had then.

    Returns:
        True: it is over, by this call. False: it was renewed meanwhile, or was over already.
    """
    return _change(connection, "SET fenced_at = clock_timestamp()", "fenced", f"renewals = {int(renewals)}", life)


def fence_self(connection: GreenConnection, life: Life) -> bool:
    """Declare one's own life over; and tell the others. False: it was over already."""
    return _change(connection, "SET fenced_at = clock_timestamp()", "fenced", "true", life)


def _change(connection: GreenConnection, assignment: str, event: str, condition: str, life: Life) -> bool:
    rows = connection.run(
        f"WITH changed AS (UPDATE hosts {assignment} WHERE host_id = %s AND epoch = %s AND fenced_at IS NULL "  # noqa: S608  # nosec B608  # callers in this module put in constants and a whole number
        f"AND {condition} RETURNING epoch) SELECT pg_notify(%s, %s || epoch) FROM changed",
        (life.host_id, life.epoch, CHANNEL, event + " "),
    )
    return bool(rows)


def hosts(connection: GreenConnection, *, fenced: bool = False) -> list[HostRow]:
    """Return the lives that are not over, sorted by host id and epoch; with `fenced`, the others too."""
    rows = connection.run(
        "SELECT host_id, epoch, address, admin_addr, lease_duration, renewals, leaving, fenced_at IS NOT NULL, "
        "extract(epoch FROM lease_expiry - clock_timestamp())::double precision "
        "FROM hosts WHERE fenced_at IS NULL OR %s ORDER BY host_id, epoch",
        (fenced,),
    )
    return [HostRow(Life(row[0], row[1]), *row[2:]) for row in rows]


def forget_fenced(connection: GreenConnection, keep: float = 3600.0) -> int:
    """Remove the rows of lives that are over and own nothing any more. What has no row is over as well.

    Args:
        connection: Any; the table of owners is read whole, so not too often.
        keep: Seconds, by the database's wall clock, for which they stay for people to see.

    Returns:
        How many were removed.
    """
    rows = connection.run(
        "DELETE FROM hosts h WHERE fenced_at < clock_timestamp() - %s * interval '1 second' "
        "AND NOT EXISTS (SELECT FROM actor_ownership o WHERE o.epoch = h.epoch) RETURNING 1",
        (keep,),
    )
    return len(rows)


def listen(connection: GreenConnection) -> None:
    """Have changes of the membership announced to this connection: see `GreenConnection.notifications`."""
    connection.run(f"LISTEN {CHANNEL}")


def notify(connection: GreenConnection, payload: str) -> None:
    """Announce something to all who listen: a few words."""
    connection.run("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


# -- ownership -------------------------------------------------------------------------------------------------


def claim(
    connection: GreenConnection, life: Life, number: int, refs: Sequence[Ref], again: Sequence[int] = ()
) -> Claimed:
    """Claim actors: those that nobody has, that this life has already, or whose owner's life is over.

    Args:
        connection: Any.
        life: Who claims.
        number: Of this claim: above those of all claims that this life has sent before.
        refs: What to claim.
        again: For each ref the number of the earliest claim whose answer was lost since the last answered one, 0 for
            none; empty for none at all. Such a ref, if it was claimed then, gets the reason that it got then.

    Returns:
        What became of each ref.

    Raises:
        HostFenced: This life is over. Nothing was claimed.
        AnswerLost: Nobody knows what was claimed: ask again, with a new number and `again`.
        DatabaseUnavailable: Nothing was claimed; another time it may work.
        DatabaseRefused: The database can't do it.
    """
    refused = unstorable(refs)
    asked = dict(zip(refs, again or [0] * len(refs), strict=True))
    left = [ref for ref in asked if ref not in refused] if refused else list(asked)
    result = Claimed({}, {}, refused)
    for _ in range(_ROUNDS):
        if not left:
            return result
        types, ids = _arrays(left)
        lost = [asked[ref] for ref in left] if again else []
        rows = connection.run(
            "SELECT place, owner, owner_epoch, why "
            "FROM theatre_claim(%s, %s, %s, %s::text[], %s::text[], %s::bigint[])",
            (life.host_id, life.epoch, number, types, ids, lost),
        )
        for place, owner, epoch, why in rows:
            if place == 0:
                result.mine.update(dict.fromkeys(left, InitReason.NEW))
            elif place < 0:
                raise HostFenced(f"epoch {epoch} of host {owner} is over: it can claim nothing")
            elif why:
                result.mine[left[place - 1]] = _REASONS[why]
            else:
                result.foreign[left[place - 1]] = Life(owner, epoch)
        left = [ref for ref in left if ref not in result.mine and ref not in result.foreign]
    raise AnswerLost(f"{len(left)} actors, {left[0]} among them, came and went while they were claimed: ask again")


def release(connection: GreenConnection, life: Life, number: int, refs: Sequence[Ref]) -> int:
    """Give actors back, but none that was claimed since.

    Args:
        connection: Any.
        life: Who gives back.
        number: Of the last claim whose answer was known when this was decided: what a later one has claimed stays.
        refs: What to give back.

    Returns:
        How many were given back.
    """
    refused = unstorable(refs)
    types, ids = _arrays([ref for ref in refs if ref not in refused] if refused else refs)
    return _release(connection, life, number, types, ids)


def _release(connection: GreenConnection, life: Life, number: int, types: str, ids: str) -> int:
    rows = connection.run(
        "SELECT theatre_release(%s, %s, %s, %s::text[], %s::text[])", (life.host_id, life.epoch, number, types, ids)
    )
    return int(rows[0][0])


def resign(connection: GreenConnection, life: Life, batch: int = 2000) -> int:
    """Give everything back, then end one's own life and tell the others. May be called again after an error.

    Args:
        connection: Any.
        life: Which claims nothing any more.
        batch: Actors in one statement.

    Returns:
        How many actors were given back.
    """
    total = 0
    while rows := connection.run(
        "SELECT actor_type, actor_id FROM actor_ownership WHERE host_id = %s AND epoch = %s LIMIT %s",
        (life.host_id, life.epoch, _RESIGN_READ),
    ):
        for start in range(0, len(rows), batch):
            types, ids = zip(*rows[start : start + batch], strict=True)
            total += _release(connection, life, _MAX_NUMBER, _array(types), _array(ids))
    fence_self(connection, life)
    return total


def owners(connection: GreenConnection, refs: Sequence[Ref]) -> dict[Ref, Ownership]:
    """Return who has which actor, for those that somebody has."""
    refused = unstorable(refs)
    asked = [ref for ref in refs if ref not in refused] if refused else refs
    rows = connection.run(
        "SELECT a.n, o.host_id, o.epoch, h.epoch IS NOT NULL, o.claim "
        "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS a(t, i, n) "
        "JOIN actor_ownership o ON o.actor_type = a.t AND o.actor_id = a.i "
        "LEFT JOIN hosts h ON h.host_id = o.host_id AND h.epoch = o.epoch AND h.fenced_at IS NULL",
        _arrays(asked),
    )
    return {asked[row[0] - 1]: Ownership(Life(row[1], row[2]), row[3], row[4]) for row in rows}


def unstorable(refs: Iterable[Ref]) -> dict[Ref, str]:
    """Return those of `refs` that no row can hold, and what is wrong with them."""
    return {ref: problem for ref in refs if (problem := _problem(ref)) is not None}


def _problem(ref: Ref) -> str | None:
    text = ref.type + ref.id
    if text.isascii() and len(text) <= MAX_REF_BYTES and "\0" not in text:
        return None
    name = repr(ref) if len(text) <= 200 else f"{text[:60]!r}..."
    if "\0" in text:
        return f"ref {name} can't be kept in Postgres: it holds a NUL character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"ref {name} can't be kept in Postgres: it holds half of a surrogate pair, which is no character"
    if size > MAX_REF_BYTES:
        return f"ref {name} can't be kept in Postgres: it has {size} bytes, and {MAX_REF_BYTES} are the most"
    return None


def _arrays(refs: Iterable[Ref]) -> tuple[str, str]:
    # Array literals: Postgres reads one in a tenth of the time that an ARRAY of so many expressions takes.
    return _array([ref.type for ref in refs]), _array([ref.id for ref in refs])


def _array(texts: Sequence[str]) -> str:
    if not texts:
        return "{}"
    joined = '","'.join(texts)
    if "\\" in joined or joined.count('"') != 2 * (len(texts) - 1):
        joined = '","'.join([text.replace("\\", "\\\\").replace('"', '\\"') for text in texts])
    return '{"' + joined + '"}'
