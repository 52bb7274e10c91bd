"""Logs of the library: fields of its records, a JSON formatter, and a handler with which no slow reader stalls the hub.

The library logs with the standard `logging`, below the logger `theatre_gevent`. Where it goes is up to the application,
in its own way or by `configure`; without either, warnings and errors go to stderr.

Records may have two fields beside the usual ones: `theatre_host`, the id of the host that is concerned, and
`theatre_ref`, the actor, as `type/id`. Both are None where `configure` handles a record that concerns none.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import traceback
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from . import forking
from .errors import InvalidOption
from .journal import Journal, iso

if TYPE_CHECKING:
    from collections.abc import Callable

    from .messages import Ref

ROOT = "theatre_gevent"
"""The logger above all of the library's."""

FORMATS = ("text", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
QUEUED = 10_000
"""Lines that wait for a slow reader at most."""
STDERR = 2
_FLUSH_TIMEOUT = 2.0
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = ("time", "level", "logger", "message", "host", "ref", "process", "error", "traceback", "stack")
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "theatre_host", "theatre_ref"}


def fields(host_id: str | None = None, ref: Ref | None = None) -> dict[str, str]:
    """Return the `extra` of a log call about a host, an actor, or both."""
    extra: dict[str, str] = {}
    if host_id is not None:
        extra["theatre_host"] = host_id
    if ref is not None:
        extra["theatre_ref"] = str(ref)
    return extra


def safely(log: Callable[..., object], text: str, *args: object, **details: Any) -> None:
    """Log where much would be left undone if a filter or handler of the application raised: it is printed then.

    Args:
        log: A method of a logger.
        text: As for that method, with `args` and `details`.
        args: As above.
        details: As above.
    """
    try:
        log(text, *args, **details)
    except Exception:  # noqa: BLE001 - of the application
        traceback.print_exc()


class Fields(logging.Filter):
    """Gives each record both fields; the only host of the process is meant where a record names none.

    Args:
        host_id: Who is meant instead, for a process that has one host at most.
    """

    def __init__(self, host_id: str | None = None) -> None:
        super().__init__()
        self._host_id = host_id

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete a record; all pass."""
        if not hasattr(record, "theatre_host"):
            running = forking.running()
            record.theatre_host = self._host_id or (running[0] if len(running) == 1 else None)
        if not hasattr(record, "theatre_ref"):
            record.theatre_ref = None
        return True


class LastResort(logging.NullHandler):
    """Has `logging` write warnings and errors to stderr where nobody has configured it, as it does for any program.

    It would not by itself once a host has a journal, which is a handler. A `NullHandler` of the application's at the
    logger `theatre_gevent` silences this one.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record that no other handler gets."""
        last = logging.lastResort
        if last is None or record.levelno < last.level or _is_handled(record):
            return False
        return bool(last.handle(record))


def _is_handled(record: logging.LogRecord) -> bool:
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if not all(isinstance(handler, (LastResort, Journal)) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, `host`, `ref`, `process`, and what `extra` gave.

    An exception becomes `error`, its type and text, and `traceback`. What JSON has no form for becomes its `str`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": iso(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "host": getattr(record, "theatre_host", None),
            "ref": getattr(record, "theatre_ref", None),
            "process": record.process,
        }
        for name, value in vars(record).items():
            if name not in _USUAL:
                line.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {error}"
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return json.dumps(line, default=str, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # keys that are no texts, a cycle, a NaN
            given = {name: value if name in _FIELDS else str(value) for name, value in line.items()}
            return json.dumps(given, default=str, ensure_ascii=False)


class Writer:
    """Writes to a file descriptor from a native thread: a full pipe stops that thread, and nothing else.

    Args:
        descriptor: Where to; it stays open.
        limit: Pieces that wait at most; what comes then is dropped and counted.
        notice: Returns what is written in the place of so many pieces that were dropped; nothing is by default.

    Attributes:
        dropped: How many pieces were dropped.
    """

    def __init__(self, descriptor: int, limit: int = QUEUED, notice: Callable[[int], bytes] | None = None) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._notice = notice
        self._process = 0
        self._queue: Any = None
        # The machine's own, and one that its holder may take again, as a handler of a signal may do that logs.
        self._lock = get_original("_thread", "RLock")()
        self._missing = 0
        self.dropped = 0

    def put(self, data: bytes) -> bool:
        """Have `data` written soon, whole and in order. Any thread may call it; it never waits.

        Returns:
            False if it was dropped.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if self._queue.qsize() >= self._limit:
                self.dropped += 1
                self._missing += 1
                return False
            self._put_notice()
            self._queue.put(data)
        return True

    def _put_notice(self) -> None:
        if self._missing and self._notice is not None:
            missing, self._missing = self._missing, 0
            self._queue.put(self._notice(missing))

    def flush(self, timeout: float = _FLUSH_TIMEOUT) -> bool:
        """Wait until all is written, at most `timeout` seconds, and tell whether it is. The thread stands meanwhile."""
        if self._process != os.getpid():
            return True
        done = get_original("_thread", "allocate_lock")()
        done.acquire()
        with self._lock:
            self._put_notice()
            self._queue.put(done)
        return bool(done.acquire(timeout=timeout))

    def close(self, timeout: float = _FLUSH_TIMEOUT) -> bool:
        """Do the same, and end the thread when it has written what waits; it begins anew with the next piece."""
        written = self.flush(timeout)
        if self._process == os.getpid():
            self._process = 0
            self._queue.put(None)
        return written

    def _begin(self) -> None:
        """Start the thread; a forked process has none of its parent's, and leaves the parent's lines to it."""
        if self._process:  # the parent's may have been taken when it forked, and what it misses is its own
            self._lock = get_original("_thread", "RLock")()
            self._missing = 0
        queue = get_original("queue", "SimpleQueue")()
        get_original("_thread", "start_new_thread")(self._run, (queue,))
        self._queue = queue
        self._process = os.getpid()  # last, since other threads that see it take the queue

    def _run(self, queue: Any) -> None:
        while True:
            item = queue.get()
            if item is None:
                if queue.empty():
                    return
                queue.put(None)  # another thread was about to put something when it was closed
                continue
            if not isinstance(item, bytes):
                item.release()
                continue
            try:
                self._write(item)
            except OSError:  # nobody reads any more
                with self._lock:
                    self.dropped += 1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # noqa: PERF203 - somebody who shares it has made it so
                get_original("select", "select")([], [self._descriptor], [])


class QueuedHandler(logging.Handler):
    """Formats where a record is made, and writes in a native thread.

    When lines were dropped, the next one that is not is preceded by one that says how many.

    Args:
        descriptor: Where to.
        limit: Lines that wait at most.

    Attributes:
        writer: Writes there.
    """

    def __init__(self, descriptor: int, limit: int = QUEUED) -> None:
        super().__init__()
        self.writer = Writer(descriptor, limit, self._notice)
        atexit.register(self.flush)

    def handle(self, record: logging.LogRecord) -> bool:
        """Filter and emit without a lock, which gevent's threads and the machine's would share."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - a record whose text can't be made
            self.handleError(record)
            return
        self.writer.put(line)

    def flush(self) -> None:
        """Wait for what is queued, at most two seconds."""
        self.writer.flush()

    def close(self) -> None:
        """Write what is queued; the descriptor stays open."""
        atexit.unregister(self.flush)
        self.writer.close()
        super().close()

    def _notice(self, lost: int) -> bytes:
        values = {"name": f"{ROOT}.logs", "levelno": logging.WARNING, "levelname": "WARNING", "process": os.getpid()}
        record = logging.makeLogRecord({**values, "msg": "%d log lines were dropped: they are read too slowly"})
        record.args = (lost,)
        for each in self.filters:
            if isinstance(each, logging.Filter):
                each.filter(record)
        return self._line(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")


def configure(
    *,
    format: str = "text",  # noqa: A002 - as in logging.basicConfig
    level: int | str = logging.INFO,
    host_id: str | None = None,
    descriptor: int = STDERR,
    limit: int = QUEUED,
) -> QueuedHandler:
    """Write the process' logs, the application's too, by a native thread. Calling it again replaces the last call.

    The handler is that of the root logger; `level` is set there and for the library. A reader that is slow, such as a
    full pipe, never stalls the hub: beyond `limit` lines are dropped, and how many were is written when there is room.

    Args:
        format: `text` or `json`, see `JsonFormatter`.
        level: The least level that is written: its name or number.
        host_id: Whom records belong to that name no host; by default the only host of the process.
        descriptor: Number of an open file; 2 is stderr.
        limit: Lines that wait to be written.

    Returns:
        The handler; `handler.writer.dropped` counts.

    Raises:
        InvalidOption: The format or the level is unknown.
    """
    if format not in FORMATS:
        raise InvalidOption(f"the log format must be one of {', '.join(FORMATS)}, got {format!r}")
    if isinstance(level, str):
        if level.upper() not in LEVELS:
            raise InvalidOption(f"the log level must be one of {', '.join(LEVELS)}, got {level!r}")
        level = level.upper()
    handler = QueuedHandler(descriptor, limit)
    handler.setFormatter(JsonFormatter() if format == "json" else logging.Formatter(_TEXT))
    handler.addFilter(Fields(host_id))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, QueuedHandler):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger(ROOT).setLevel(level)
    return handler
