"""Between a hub and one native thread: commands there, answers and news back. No lock is ever held for long.

The thread uses nothing that gevent has patched and never logs: a greenlet that holds a patched lock would make it
create a hub of its own, and a full pipe would stop it.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from gevent.event import AsyncResult
from gevent.monkey import get_original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..core.remote import Leased

_allocate_lock = get_original("_thread", "allocate_lock")
_start_new_thread = get_original("_thread", "start_new_thread")
_socketpair = get_original("socket", "socketpair")
_select = get_original("select", "select")
try:
    _poll = get_original("select", "poll")  # it takes file numbers above 1023 too
except AttributeError:  # Windows
    _poll = None


class Shared(Protocol):
    """What hub and thread both look at; each attribute is written by one of them."""

    holder: Leased
    """Its `lease_until` is written by the thread."""
    ticked: float
    """Written by the hub: when it last ran."""
    tick_is_missed: bool
    """Set by the thread, which wants to be woken by the next tick; reset by the hub."""
    hub_thread: int
    stuck_at: str
    """Written by the thread: what the hub's thread was doing when ticks were missed."""


class Command:
    """Something that the thread shall do.

    Attributes:
        answer: Completed in the hub, with what `value` or `error` say by then.
    """

    __slots__ = ("answer", "args", "error", "value", "verb")

    def __init__(self, verb: str, args: tuple[Any, ...] = ()) -> None:
        self.verb = verb
        self.args = args
        self.value: Any = None
        self.error: BaseException | None = None
        self.answer: AsyncResult[Any] = AsyncResult()


class Crossing:
    """Belongs to the hub of the thread that makes it.

    Args:
        hub: Where news are delivered.
        deliver: Gets each of the news, in the hub: it must not block.
    """

    def __init__(self, hub: Any, deliver: Callable[[Any], None]) -> None:
        self._deliver = deliver
        self._commands: deque[Command] = deque()
        self._news: deque[Any] = deque()
        self._ear, self._mouth = _socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._lock = _allocate_lock()
        self._open = True
        self._watcher = hub.loop.async_()
        self._watcher.start(self._arrived)

    # -- in the hub

    def start_thread(self, function: Callable[[], None]) -> None:
        """Run `function` in a native thread of its own."""
        _start_new_thread(function, ())

    def order(self, command: Command) -> Command:
        """Give the thread something to do."""
        self._commands.append(command)
        self.wake()
        return command

    def wake(self) -> None:
        """Have the thread look around now."""
        with suppress(OSError):  # full: then it will wake up anyhow
            self._mouth.send(b"\0")

    def close(self) -> None:
        """Deliver nothing any more. What the thread still posts is dropped."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._watcher.stop()
        self._watcher.close()

    def _arrived(self) -> None:
        news = self._news
        while news and self._open:
            item = news.popleft()
            if type(item) is not Command:
                self._deliver(item)
            elif item.error is None:
                item.answer.set(item.value)
            else:
                item.answer.set_exception(item.error)

    # -- in the thread

    def commands(self) -> Iterator[Command]:
        """Yield what is to be done."""
        while self._commands:
            yield self._commands.popleft()

    def post(self, item: Any) -> None:
        """Tell the hub, or give a command back to it with its answer."""
        with self._lock:  # nobody may touch the watcher once it is closed
            if self._open:
                self._news.append(item)
                self._watcher.send()

    def wait(self, number: int | None, seconds: float) -> None:
        """Wait until there are commands, something can be read from file `number`, or the time has passed."""
        numbers = [self._ear.fileno()] if number is None else [self._ear.fileno(), number]
        if _poll is None:
            _select(numbers, [], [], seconds)
        else:
            poll = _poll()
            for each in numbers:
                poll.register(each, 1)  # POLLIN; errors and the end of file come unasked
            poll.poll(int(seconds * 1000) + 1)
        with suppress(BlockingIOError):
            self._ear.recv(4096)

    def ended(self) -> None:
        """The thread is about to end."""
        self._ear.close()
        self._mouth.close()
