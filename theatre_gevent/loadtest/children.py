"""Hosts in processes of their own, as the command sees them: started, told what to do, and watched."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult
from gevent.subprocess import PIPE, Popen, TimeoutExpired

from theatre_gevent.channel import BadLine, Sender, receive
from theatre_gevent.processes import command, ending, environment

from .console import put
from .part import END_GRACE, STOP_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .part import HostSpec
    from .result import HostResult, Progress, Warmth
    from .stop import Stop

CHILD_FLAG = "-child"
"""First argument of a process that `ChildProcess` starts."""

_START_TIMEOUT = 60.0
_SLACK = 30.0
"""Seconds for a process that gets too little of a busy machine."""

_ACTORS_PER_SECOND = 5_000
"""Far fewer than the slowest machine activates."""

_EXIT_TIMEOUT = 20.0


class Crash(Exception):
    """A process with a host can't be started, has ended, or does not answer any more; the message is one line."""


class ChildProcess:
    """A process with one host. Its steps are those of `Part`; each may raise Crash.

    Args:
        spec: Which host.
        stop: Of the whole run; a cause found by the process is left there.
        on_progress: Called every five seconds while workers work.

    Raises:
        Crash: The system has no room for one more process or its pipes.
    """

    def __init__(self, spec: HostSpec, stop: Stop, on_progress: Callable[[Progress], None]) -> None:
        self._name = spec.name
        self._options = spec.options
        self._stop = stop
        self._on_progress = on_progress
        self._finished = False
        self._last_line = ""
        self._crash: Crash | None = None
        self._reply: AsyncResult[dict[str, Any]] | None = None
        # A session of its own: Ctrl+C in a terminal goes to the command alone, which ends its processes in good order.
        try:
            self._process = Popen(
                command(__package__, CHILD_FLAG, spec.name),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise Crash(f"{self._name} can't be started: {error.strerror}") from error
        self.pid: int = self._process.pid
        assert self._process.stdin is not None
        self._sender = Sender(self._process.stdin)
        self._errors = gevent.spawn(self._pass_errors_on)
        self._reader = gevent.spawn(self._read)
        self._tell(
            {
                "index": spec.index,
                "options": spec.options.for_process(spec.name).data(),
                "admin": spec.admin,
                "parent": os.getpid(),
            }
        )

    def start(self) -> dict[str, str | None]:
        """Wait until the process runs and its host has started; return the host's address by its name."""
        addresses: dict[str, str | None] = self._ask("start", _START_TIMEOUT + self._for_actors())
        return addresses

    def admin(self) -> dict[str, str | None]:
        """Return the address of the host's admin server by its name."""
        addresses: dict[str, str | None] = self._ask("admin", _SLACK)
        return addresses

    def join(self, members: dict[str, str]) -> None:
        """Make the hosts of these names and addresses a cluster."""
        self._ask("join", _SLACK + self._for_actors(), members)

    def warm(self) -> Warmth:
        """Activate the actors that are this host's own."""
        warmth: Warmth = self._ask("warm", STOP_TIMEOUT + _SLACK + self._for_actors())
        return warmth

    def work(self) -> None:
        """Run the workers, from now to the end of the test."""
        self._ask("work", self._options.duration + END_GRACE + _SLACK)

    def settle(self) -> list[int]:
        """Wait until the host has handled what it accepted; return counters that then stand still."""
        counters: list[int] = self._ask("settle", STOP_TIMEOUT + _SLACK)
        return counters

    def finish(self) -> list[HostResult]:
        """Stop the host and return what was counted."""
        results: list[Any] = self._ask("finish", 3 * STOP_TIMEOUT + _SLACK + self._for_actors())
        for result in results:
            result["activated"] = b64decode(result["activated"])
        self._finished = True
        return results

    def ask_to_stop(self) -> None:
        """Let the workers end soon."""
        self._tell({"do": "stop"})

    def close(self) -> None:
        """End the process: by itself if it has finished, by force if it has not."""
        process = self._process
        if self._crash is None and self._finished:
            self._tell({"do": "exit"})
            with suppress(TimeoutExpired):
                process.wait(timeout=_EXIT_TIMEOUT)
        if process.poll() is None:
            process.kill()
        process.wait()
        gevent.joinall([self._reader, self._errors], timeout=_EXIT_TIMEOUT)

    # -- inside ------------------------------------------------------------------------------------------------

    def _for_actors(self) -> float:
        return self._options.actors / _ACTORS_PER_SECOND

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # it has ended: `_read` finds out why
            self._sender.send(message)

    def _ask(self, step: str, timeout: float, *arguments: object) -> Any:
        """Let the process take a step and wait for its end."""
        if self._crash is not None:
            raise self._crash
        reply: AsyncResult[dict[str, Any]] = AsyncResult()
        self._reply = reply
        self._tell({"do": step, "arguments": arguments})
        try:
            message = reply.get(timeout=timeout)
        except gevent.Timeout:
            raise Crash(f"{self._title()} did not end its step '{step}' within {timeout:.0f} s") from None
        finally:
            self._reply = None
        assert message is not None
        if "failed" in message:
            raise Crash(f"{self._title()}: {message['failed']}")
        return message["value"]

    def _read(self) -> None:
        """Take what the process says until it ends."""
        why = None
        assert self._process.stdout is not None
        try:
            for message in receive(self._process.stdout):
                if "progress" in message:
                    self._on_progress(message["progress"])
                    continue
                if message.get("error") is not None:
                    self._stop.ask(message["exit_code"], message["error"])
                if self._reply is not None:
                    self._reply.set(message)
        except (BadLine, OSError) as error:
            why = f"{self._title()} can't be understood: {error}"
        if self._finished:
            return
        self._crash = Crash(why or self._ending())
        if self._reply is not None:
            self._reply.set_exception(self._crash)

    def _ending(self) -> str:
        """Say how the process ended."""
        try:
            code = self._process.wait(timeout=_EXIT_TIMEOUT)
        except TimeoutExpired:
            return f"{self._title()} has closed its pipe"
        self._errors.join(timeout=_EXIT_TIMEOUT)
        return f"{self._title()} {ending(code)}" + (f"; its last words: {self._last_line}" if self._last_line else "")

    def _pass_errors_on(self) -> None:
        """Print what the process prints, as it comes, or nowhere: it would stop at a full pipe that nobody reads."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last_line = text
            put(f"{self._name}: {text}", sys.stderr)

    def _title(self) -> str:
        return f"{self._name} (process {self.pid})"
