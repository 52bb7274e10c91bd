"""How new schedules get into a database: a row is there before the call that makes the schedule returns."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from greenlet import getcurrent
from msgspec.structs import replace

from ..errors import AnswerLost, DatabaseRefused, InvalidRef, TheatreError
from ..logic.bodies import MAX_BODY, dump_body
from ..logic.envelopes import clean_text
from ..logic.schedules import Row
from .batches import Batches

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher
    from ..messages import Ref
    from .store import ScheduleStore

PREFIX = "pg-"
"""What the ids of these schedules begin with, so that none is ever that of a schedule in a host's memory."""

_BATCH = 500
_ATTEMPTS = 3
"""How often a new schedule is written whose answer was lost: writing it again changes nothing."""


class Writing:
    """Writes schedules down, those that are made at the same time in one statement.

    Args:
        dispatcher: Of the host that makes them.
        store: The database.
    """

    def __init__(self, dispatcher: Dispatcher, store: ScheduleStore) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._batches: Batches[Row, int | None] = Batches(self._insert, _BATCH)

    def row(self, ref: Ref, body: object, sender: Ref | None, due_us: int) -> Row:
        """Return a new schedule's row.

        Raises:
            TheatreError: The message can't be kept or sent, or this is no place or time to ask for it.
        """
        dispatcher = self._dispatcher
        check_can_wait(dispatcher)
        dispatcher.backpressure.check_running()
        problem = self._store.problem(dispatcher.registry.check(ref))
        if problem is not None:
            raise InvalidRef(problem)
        data = dump_body(body)
        if len(data) > MAX_BODY:
            raise DatabaseRefused(f"the body has {len(data)} bytes when encoded; at most {MAX_BODY} can be sent")
        sender_type, sender_id = (None, None) if sender is None else (sender.type, sender.id)
        return Row(PREFIX + uuid.uuid4().hex, ref.type, ref.id, sender_type, sender_id, data, due_us)

    def write(self, row: Row) -> int | None:
        """Write a row; returns when it is due, None if it was there already, since an answer was lost.

        Raises:
            DatabaseError: It is not there, or nobody knows.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                due_us = self._batches.call(row)
                break
            except AnswerLost:
                if attempt == _ATTEMPTS:
                    raise
                # The row may have been there, and been handled meanwhile: then this is another attempt, and says so.
                row = replace(row, attempt=1)
        return due_us

    def _insert(self, rows: list[Row]) -> list[int | BaseException | None]:
        try:
            dues = self._store.insert(rows)
        except DatabaseRefused as error:
            if len(rows) == 1:
                return [error]
            return [outcome for row in rows for outcome in self._insert([row])]  # one bad row takes no other along
        return [dues.get(row.id) for row in rows]


def is_id(text: str) -> bool:
    """Tell whether a text can be the id of one of these schedules; others need not be looked for."""
    return text.startswith(PREFIX) and "\0" not in text and clean_text(text) == text


def check_can_wait(dispatcher: Dispatcher) -> None:
    """See to it that the caller may wait for a database.

    Raises:
        TheatreError: It is the hub itself.
    """
    if getcurrent() is dispatcher.hub:
        raise TheatreError("this would block the hub: call it from a greenlet, not from a loop callback")
