"""What waits to be written to a peer: messages first, then frames, and senders in line when there is too much.

Messages of one loop iteration are encoded together when the writer comes round to them, or as soon as there are
enough for a frame, so that their bytes are known and can be bounded. A frame is forgotten when all of it has been
given to the socket; until then its messages have certainly not arrived, since the peer acts on whole frames only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gevent.event import AsyncResult

from ..core import native
from ..errors import InboxFull, MessageNotSerializable
from ..logic.codec import encode_messages

if TYPE_CHECKING:
    from ..clock import Clock
    from ..errors import TheatreError
    from ..logic.envelopes import Message
    from .handler import Counters

    Frame = tuple[bytes, list[Message], float]
    """A batch that has been encoded, and when that was. Just a tuple: it is made and taken apart for each batch."""

MAX_BURST = 256
"""Messages in a frame at most: from 128 on larger ones cost the same per message, and what has not been encoded has
not been weighed."""
_FRAME_BYTES = 256 * 1024
_FIRST_BURST = 16
_ATTEMPTS = 3
"""Connections that may break while one frame is being written to them. It is too large for such a way, most likely."""


class _Place:
    """Of a sender in line."""

    def __init__(self, deadline: float) -> None:
        self.turn: AsyncResult[None] = AsyncResult()
        self.deadline = deadline
        self.granted = False


class Outbox:
    """The base of `Link` and `Inlet`; the methods with an underscore are for them and their connection.

    Args:
        room: Messages above which it is full.
        room_bytes: Encoded bytes above which it is full.
        clock: Time.
        counters: Of the transport.

    Attributes:
        full: Senders have to `wait_for_room`. Nothing is refused if they don't, it only takes memory.
    """

    def __init__(self, room: int, room_bytes: int, clock: Clock, counters: Counters) -> None:
        self.full = False
        self._queue: list[Message] = []
        self._limit = 1  # length of _queue from which on send has more to do than to append
        self._armed = False  # the writer is awake or has been woken
        self._frames: list[Frame] = []  # a few
        self._encoded = 0  # messages in _frames
        self._bytes = 0  # bytes in _frames
        self._begun = 0  # bytes of the first frame that have been written
        self._broken = 0  # connections that broke meanwhile, one after the other
        self._burst = min(_FIRST_BURST, room)
        self._room, self._room_bytes = room, room_bytes
        self._clock, self._counters = clock, counters
        self._monotonic = clock.monotonic
        self._line: deque[_Place] = deque()
        self._granted = 0  # places that were given and have not been used yet
        self._over: TheatreError | None = None

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue `message`; never waits and never raises. What cannot be delivered goes to `Handler.lost`."""
        queue = self._queue
        queue.append(message)
        if len(queue) >= self._limit:
            self._more()

    def _more(self) -> None:
        if self._over is not None:
            messages, self._queue = self._queue, []
            self._undeliverable(messages)
            return
        if not self._armed:
            self._armed = True
            self._set_limit()
            self._wake()
            if len(self._queue) < self._limit:
                return
        self._pack()

    def _set_limit(self) -> None:
        if self._over is not None or not self._armed:
            self._limit = 1
        else:
            self._limit = max(1, min(self._burst, self._room - self._encoded))

    def _pack(self) -> None:
        """Encode what is queued."""
        if not self._queue:
            return
        messages, self._queue = self._queue, []
        self._encode(messages)
        self._set_limit()
        if not self.full and (self._encoded >= self._room or self._bytes >= self._room_bytes):
            self.full = True
            self._overflow()

    def _encode(self, messages: list[Message]) -> None:
        frames, refused = encode_messages(messages)
        if refused:
            for message, reason in refused:
                self._refused(message, MessageNotSerializable(f"the message cannot be sent: {reason}"))
            bad = {id(message) for message, _ in refused}
            good = [message for message in messages if id(message) not in bad]
            if good:
                self._encode(good)
        elif len(frames) > 1:  # so that each message is known to be in this frame or that
            middle = len(messages) // 2
            self._encode(messages[:middle])
            self._encode(messages[middle:])
        else:
            count, size = len(messages), len(frames[0])
            self._frames.append((frames[0], messages, native.read(self._monotonic)))
            self._encoded += count
            self._bytes += size
            self._burst = max(1, min(MAX_BURST, self._burst * 2, count * _FRAME_BYTES // size, self._room))

    # -- writing -------------------------------------------------------------------------------------------------

    def _head(self, at_most: int) -> bytes:
        """Return the bytes to write next: whole frames of together `at_most` bytes, one if it is larger."""
        frames = self._frames
        if not frames:
            return b""
        data, _, _ = frames[0]
        if len(frames) == 1 or len(data) >= at_most:
            return data
        parts: list[bytes] = []
        size = 0
        for data, _, _ in frames:
            size += len(data)
            if size > at_most and parts:
                break
            parts.append(data)
        return b"".join(parts)

    def _wrote(self, size: int) -> None:
        """Forget what has been written, `size` bytes more than before."""
        begun, frames, counters = self._begun + size, self._frames, self._counters
        while frames:
            data, messages, _ = frames[0]
            if begun < len(data):
                break
            del frames[0]
            begun -= len(data)
            self._broken = 0
            self._bytes -= len(data)
            self._encoded -= len(messages)
            counters.batches_out += 1
            counters.messages_out += len(messages)
        self._begun = begun
        if self.full:
            self._make_room()

    def _rewind(self) -> list[Message]:
        """The connection is gone: what is left of the first frame is of no use, another one needs all of it.

        Returns:
            The messages of that frame, if it is given up.
        """
        if self._begun:
            self._begun = 0
            self._broken += 1
        if self._broken < _ATTEMPTS:
            return []
        self._broken = 0
        return self._take_first(1)

    def _rest(self) -> None:
        """The writer has nothing to do: the next message wakes it."""
        self._armed = False
        self._limit = 1

    def _is_empty(self) -> bool:
        return not self._queue and not self._frames

    def _queued(self) -> int:
        return len(self._queue) + self._encoded

    def _take_older(self, than: float) -> list[Message]:
        """Take out the messages of the frames that were made before `than`."""
        return self._take_first(sum(made <= than for _, _, made in self._frames))

    def _take_first(self, count: int) -> list[Message]:
        """Take out the messages of the first `count` frames."""
        taken: list[Message] = []
        for _ in range(count):
            data, messages, _ = self._frames.pop(0)
            self._bytes -= len(data)
            self._encoded -= len(messages)
            taken += messages
        self._set_limit()
        if self.full:
            self._make_room()
        return taken

    def _take_all(self) -> list[Message]:
        taken = [message for _, messages, _ in self._frames for message in messages] + self._queue
        self._frames.clear()
        self._queue = []
        self._encoded = self._bytes = self._begun = 0
        return taken

    # -- the line of senders -------------------------------------------------------------------------------------

    def wait_for_room(self, timeout: float) -> None:
        """Wait until it is no longer full and this sender's turn has come; it should send at once then.

        Args:
            timeout: Seconds, kept to within 0.1 s. 0 does not wait.

        Raises:
            InboxFull: It stayed full.
            PeerDown: The peer was removed, or the transport stops.
        """
        if not self.full:
            return
        if self._over is not None:
            raise self._over.copy()
        if not timeout > 0:
            raise self._no_room(timeout)
        place = _Place(self._clock.monotonic() + timeout)
        self._line.append(place)
        self._watch_line()
        try:
            place.turn.get()
        except BaseException:
            if not place.granted:
                if place in self._line:
                    self._line.remove(place)
            else:
                self._granted -= 1  # killed after the turn had come: the next one has it
                self._make_room()
            raise
        self._granted -= 1
        self._make_room(1)

    def _no_room(self, waited: float) -> InboxFull:
        return InboxFull(
            f"{self}: the queue stayed full for {waited:g} s, with {self._queued()} messages and {self._bytes} bytes"
        )

    def _make_room(self, about_to_send: int = 0) -> None:
        """Let those in line in, as many as there is room for; `about_to_send` counts one that is not there yet."""
        free = self._room - self._encoded - len(self._queue) - self._granted
        free_bytes = self._room_bytes - self._bytes
        if free <= 0 or free_bytes <= 0:
            return
        if not self._line:
            if not self._granted:
                self.full = False
                self._set_limit()
            return
        free -= about_to_send
        if self._encoded:  # large ones would overshoot by the size of the line
            free = min(free, max(1 - self._granted, free_bytes * self._encoded // self._bytes))
        while self._line and free > 0:
            free -= 1
            place = self._line.popleft()
            place.granted = True
            self._granted += 1
            place.turn.set(None)

    def _look_at_line(self, now: float) -> None:
        """Send away who has waited long enough, and see whether somebody let in has sent nothing after all."""
        self._make_room()
        if self._line and min(place.deadline for place in self._line) <= now:
            late = [place for place in self._line if place.deadline <= now]
            self._line = deque(place for place in self._line if place.deadline > now)
            for place in late:
                place.turn.set_exception(InboxFull(f"{self}: the queue stayed full, {self._queued()} messages wait"))

    def _finish(self, error: TheatreError) -> None:
        """Nothing is sent from here on, nobody waits."""
        self._over = error
        self._limit = 1
        self.fail_line(error)
        self.full = False

    def fail_line(self, error: TheatreError) -> None:
        """Send away who waits for room."""
        line, self._line = self._line, deque()
        for place in line:
            place.turn.set_exception(error.copy())

    # -- for the heirs -------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the writer."""
        raise NotImplementedError

    def _watch_line(self) -> None:
        """Somebody is in line: `_look_at_line` has to be called from time to time."""
        raise NotImplementedError

    def _overflow(self) -> None:
        """It has become full."""

    def _refused(self, message: Message, error: MessageNotSerializable) -> None:
        """`message` cannot be encoded. Called from within `send` as well."""
        raise NotImplementedError

    def _undeliverable(self, messages: list[Message]) -> None:
        """These came after the end. Called from within `send`."""
        raise NotImplementedError
