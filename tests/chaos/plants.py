"""Bugs that are planted into the library on purpose, one or more for each invariant, to see that the judge finds them.

Only a process of `chaos_host` that is told to has one, and it runs the library as plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.chaos.plan import FAULTS
from theatre_gevent import InitReason
from theatre_gevent.cluster import guard, outbox, postgres, schedule_sql
from theatre_gevent.logic.envelopes import Reply, Send


class Plant(NamedTuple):
    """A bug.

    Attributes:
        invariant: What it breaks.
        install: Puts it into this process.
        faults: What brings it out. One that needs none is to be found among all of them and what they excuse.
        minutes: How long it takes to come out.
        sql: Put into the database before any host starts.
    """

    invariant: str
    install: Callable[[], None] = lambda: None
    faults: tuple[str, ...] = tuple(FAULTS)
    minutes: float = 0.25
    sql: str = ""


def _patch(module: Any, name: str, wrap: Callable[..., Any]) -> None:
    original = getattr(module, name)
    setattr(module, name, lambda *args, **named: wrap(original, *args, **named))


def _claim_without_owner_check() -> None:
    def claim(original: Any, connection: Any, life: Any, number: int, refs: Sequence[Any], again: Any = ()) -> Any:
        claimed = original(connection, life, number, refs, again)
        for ref in [ref for ref, owner in claimed.foreign.items() if owner != life]:
            del claimed.foreign[ref]
            claimed.mine[ref] = InitReason.FAILOVER
        return claimed

    _patch(postgres, "claim", claim)


def _release_of_everybody() -> None:
    def release(original: Any, connection: Any, life: Any, number: int, refs: Sequence[Any]) -> int:
        connection.run("DELETE FROM actor_ownership")
        return len(refs)

    _patch(postgres, "release", release)


def _lease_is_not_looked_at() -> None:
    # Neither the dispatcher, which is never given the lease, nor the guard.
    guard.LeaseGuard.start = lambda self: None  # type: ignore[method-assign]


def _batches(change: Callable[[list[Any]], list[Any]]) -> None:
    _patch(outbox, "encode_messages", lambda original, messages: original(change(messages)))


def _batch_backwards() -> None:
    _batches(lambda messages: messages[::-1])


def _sent_twice() -> None:
    count = [0]

    def change(messages: list[Any]) -> list[Any]:
        changed = []
        for message in messages:
            changed.append(message)
            if type(message) is Send:
                count[0] += 1
                if count[0] % 20 == 0:
                    changed.append(message)
        return changed

    _batches(change)


def _some_left_out() -> None:
    count = [0]

    def keep(message: Any) -> bool:
        if type(message) is Send:
            count[0] += 1
        return type(message) is not Send or count[0] % 20 > 0

    _batches(lambda messages: [each for each in messages if keep(each)] or messages)


def _reply_of_another() -> None:
    last: list[Any] = []

    def change(messages: list[Any]) -> list[Any]:
        for message in messages:
            if type(message) is Reply:
                last.append(message.body)
                if len(last) % 20 == 0:
                    message.body = last[-2]
        return messages

    _batches(change)


def _schedule_deleted_before_delivery() -> None:
    def claim(original: Any, connection: Any, life: Any, at_most: int) -> Any:
        found = original(connection, life, at_most)
        for row in found.rows[:1]:
            connection.run("DELETE FROM schedules WHERE id = %s", (row.id,))
            found.rows.remove(row)
        return found

    _patch(schedule_sql, "claim", claim)


PLANTS = {
    "claim-without-owner-check": Plant("one activation", _claim_without_owner_check, ("ring",), 0.1),
    "release-of-everybody": Plant("one activation", _release_of_everybody, ("ring",), 0.1),
    "epochs-go-back": Plant(
        "epochs",
        faults=("restart",),
        minutes=0.1,
        sql="ALTER SEQUENCE theatre_epochs INCREMENT BY -1 RESTART WITH 1000",
    ),
    "lease-not-looked-at": Plant("lease", _lease_is_not_looked_at, ("pause",), 0.1),
    "batch-backwards": Plant("order", _batch_backwards),
    "message-sent-twice": Plant("order", _sent_twice),
    "reply-of-another": Plant("replies", _reply_of_another),
    "message-left-out": Plant("accounts", _some_left_out),
    "schedule-deleted-before-delivery": Plant("schedules", _schedule_deleted_before_delivery),
}
