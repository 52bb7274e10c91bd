"""A wire without encryption: small batches are read and written in callbacks of the hub.

A greenlet that waits for a socket costs a watcher and two switches each time, and a call that finds nothing. Here the
hub reads what has come and has it handled, and what was queued meanwhile is written at the end of the same iteration
of the loop. Only what can't go on at once goes to the greenlets: a socket that takes no more, a host that is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gevent.event import Event as Flag
from gevent.hub import Hub, get_hub

from .. import direct
from ..core import native
from ..errors import PeerDown
from ..logic.connection import Received
from . import syscalls
from .logs import log
from .sockets import describe
from .wire import JOIN, READ_MIN, Wire

if TYPE_CHECKING:
    from ..clock import Clock
    from ..errors import TheatreError
    from ..logic.connection import Connection, Event
    from .handler import Counters, Handler, Limits
    from .inlet import Inlet
    from .link import Link
    from .outbox import Outbox
    from .sockets import Socket

_READ_MAX = 64 * 1024  # a thousand messages or so, after which others have their turn
_WRITES = 4  # in one iteration of the loop


class Flushes:
    """The wires of one hub that have something to write in this iteration of the loop: one callback does for all."""

    __slots__ = ("_callback", "_due", "_run_callback")

    def __init__(self, hub: Hub) -> None:
        self._run_callback = hub.loop.run_callback
        self._callback = self._flush
        self._due: list[QuickWire] = []

    def add(self, wire: QuickWire) -> None:
        """Have a wire write what it has by then."""
        if not self._due:
            self._run_callback(self._callback)
        self._due.append(wire)

    def _flush(self) -> None:
        due, self._due = self._due, []
        done = 0
        try:
            for wire in due:
                done += 1
                try:
                    wire._flush()
                except Exception as error:  # noqa: BLE001 - the others write all the same
                    log.exception("%s: what was queued could not be written", wire.where)
                    wire.close(PeerDown(describe(error)))  # a new connection may do
        finally:
            if done < len(due):  # the handler of a signal has raised
                self._due += due[done:]
                self._run_callback(self._callback)


_flushes: WeakKeyDictionary[Hub, Flushes] = WeakKeyDictionary()


class QuickWire(Wire):
    """A plain socket and its connection. The arguments are those of `Wire`."""

    def __init__(self, sock: Socket, connection: Connection, clock: Clock, counters: Counters, limits: Limits) -> None:
        super().__init__(sock, connection, clock, counters, limits)
        self._raw: Any = sock._sock  # type: ignore[attr-defined]  # of gevent, whose own methods wait
        self._number = sock.fileno()
        self._hub = get_hub()
        self._monotonic = clock.monotonic
        flushes = _flushes.get(self._hub)
        if flushes is None:
            flushes = _flushes[self._hub] = Flushes(self._hub)
        self._flushes = flushes
        self._io: Any = None
        self._outbox: Outbox | None = None
        self._busy = True  # the greenlet writes, or will
        self._armed = False  # `_flush` is on its way
        self._begun: bytes | memoryview = b""  # what is left of bytes of which a part has been written
        self._events: list[Event] = []
        self._trouble: BaseException | None = None
        self._for_greenlet = Flag()

    def close(self, error: TheatreError) -> None:
        """End it: whoever reads or writes gets an error. The first reason stands."""
        if self._io is not None:
            self._io.stop()  # before the socket's number can be that of another one
        self._number = -1
        Wire.close(self, error)
        self._for_greenlet.set()

    def abandon(self) -> None:
        """As `Wire.abandon`. What is about to be written must not get into another socket of that number."""
        self._number = -1
        Wire.abandon(self)

    # -- reading -------------------------------------------------------------------------------------------------

    def _read_on(self, owner: Inlet | Link, handler: Handler) -> None:
        if self.error is not None:  # closed before it was read from, and its number may be another one's
            raise self.error
        self._io = io = self._hub.loop.io(self.sock.fileno(), 1)
        try:
            while self.error is None:
                io.start(self._readable, owner, handler)
                self._for_greenlet.wait()
                self._for_greenlet.clear()
                io.stop()
                if self._trouble is not None:
                    raise self._trouble
                events, self._events = self._events, []
                self._dispatch(events, owner, handler)
                self._tell()
                self._slice_is_over()
        finally:
            self._io = None
            io.stop()
            io.close()
        raise self.error

    def _readable(self, owner: Inlet | Link, handler: Handler) -> None:
        """In the hub: read once, and have it handled if nothing has to wait."""
        events: list[Event] = []
        place = -1
        try:
            data = syscalls.receive(self._raw, self._number, self._read_size)
            now = native.read(self._monotonic)
            if len(data) == self._read_size:
                self._read_size = min(_READ_MAX, 2 * self._read_size)
            elif len(data) < READ_MIN // 2:
                self._read_size = READ_MIN
            counters = self._counters
            counters.bytes_in += len(data)
            connection = self._connection
            events = connection.receive_data(data, now) if data else connection.receive_eof(now)
            for place, event in enumerate(events):
                if type(event) is not Received:
                    self._hand_over(events[place:])
                    return
                messages, unmade = direct.messages_of(event), direct.unmade_of(event)
                count = len(messages)
                if unmade or not handler.can_take(owner, count):
                    self._hand_over(events[place:])
                    return
                counters.batches_in += 1
                counters.messages_in += count
                try:
                    handler.received(owner, messages, unmade)
                except Exception:  # noqa: BLE001 - the router's mistake, of which the peer knows nothing
                    log.exception("%s: a batch of messages could not be handled", owner)
            self._tell()
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:  # noqa: BLE001 - the socket's, or a mistake of this library's: `run` tells them apart
            self._hand_over([], error)
        except BaseException:
            # The handler of a signal has raised: gevent's loop reads no more here then, but the greenlet has it do so.
            self._hand_over(events[place + 1 :])
            raise

    def _hand_over(self, events: list[Event], trouble: BaseException | None = None) -> None:
        """Let the greenlet go on with these; nothing is read meanwhile."""
        if self._io is not None:
            self._io.stop()
        self._events = events
        self._trouble = trouble
        self._for_greenlet.set()

    # -- writing -------------------------------------------------------------------------------------------------

    def rouse(self) -> None:
        """There is something to write: by the end of this iteration of the loop."""
        if self._busy:
            self._wake.set()
        elif not self._armed:
            self._armed = True
            self._flushes.add(self)

    def _rest(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._busy = False
        outbox._rest()

    def _write_some(self, outbox: Outbox) -> bool:
        self._busy = True
        begun, self._begun = self._begun, b""
        if begun:
            self._send(begun, outbox)
        return Wire._write_some(self, outbox)

    def _flush(self) -> None:
        """In the hub: write what was queued."""
        self._armed = False
        outbox = self._outbox
        if self._busy or outbox is None or self.error is not None:
            return
        if self._control:
            self._leave_it()
            return
        outbox._pack()
        for _ in range(_WRITES):
            data = outbox._head(JOIN)
            if not data:
                outbox._rest()
                return
            try:
                sent = syscalls.send(self._raw, self._number, data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._busy = True
                self._write_error = PeerDown(describe(error))  # as in `write`
                return
            self._counters.bytes_out += sent
            outbox._wrote(sent)
            if sent < len(data):
                self._begun = memoryview(data)[sent:]
                break
        self._leave_it()

    def _leave_it(self) -> None:
        """Have the greenlet write the rest."""
        self._busy = True
        self._wake.set()
