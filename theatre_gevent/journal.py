"""What went wrong lately: warnings of the library and dead letters, the last of them, in memory."""

from __future__ import annotations

import logging
import os
from collections import deque
from datetime import datetime, timezone
from itertools import count
from typing import TYPE_CHECKING, Any

from .errors import text_of

if TYPE_CHECKING:
    from .clock import Clock
    from .messages import Ref

KEPT = 200
"""Entries of each kind that are kept."""

_LONGEST = 2000
"""Characters of an entry's text."""

_LOGGER = "theatre_gevent"


class Journal(logging.Handler):
    """Keeps the last warnings and dead letters. Other threads may log meanwhile.

    Dead letters are kept apart from warnings: a host that freezes makes so many that they would push those out.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._numbers = count(1)
        self._warnings: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._letters: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def open(self) -> None:
        """Listen to what the library logs."""
        logging.getLogger(_LOGGER).addHandler(self)

    def shut(self) -> None:
        """Listen no more; what was kept can still be read."""
        logging.getLogger(_LOGGER).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            self._warnings.append(
                {
                    "number": next(self._numbers),
                    "time": iso(record.created),
                    "level": "error" if record.levelno >= logging.ERROR else "warn",
                    "source": record.name,
                    "message": _short(record.getMessage()),
                    "actor": getattr(record, "theatre_ref", None),
                    "detail": None if error is None else _short(f"{type(error).__name__}: {text_of(error)}"),
                }
            )
        except Exception:  # noqa: BLE001 - a record whose text can't be made, say
            self.handleError(record)

    def dead_letter(self, ref: Ref, body: Any, sender: Ref | None, reason: str) -> None:
        """Keep a dead letter: of its body the type alone, since it may be large, or nobody's business."""
        text = f"dead letter: {type(body).__name__}" + ("" if sender is None else f" from {sender}")
        self._letters.append(
            {
                "number": next(self._numbers),
                "time": iso(self._clock.time()),
                "level": "warn",
                "source": "dead letter",
                "message": _short(text),
                "actor": _short(str(ref)),
                "detail": _short(reason),
            }
        )

    def __len__(self) -> int:
        return len(self._warnings) + len(self._letters)

    def entries(self, limit: int) -> list[dict[str, Any]]:
        """Return the last entries, the newest first."""
        entries = [*self._warnings, *self._letters]
        entries.sort(key=lambda entry: int(entry["number"]), reverse=True)
        return [{**entry, "process": os.getpid()} for entry in entries[:limit]]


def iso(moment: float) -> str:
    """Return wall time in seconds since the epoch as RFC 3339 text, to the millisecond."""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
