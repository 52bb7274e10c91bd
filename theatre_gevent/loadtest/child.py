"""The process of one host, as `ChildProcess` starts it: takes its steps when told to, and ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from gevent.fileobject import FileObject
from gevent.queue import SimpleQueue

from theatre_gevent import logs
from theatre_gevent.channel import BadLine, Sender, receive

from .options import LoadOptions
from .part import HostSpec
from .process import LocalProcess
from .stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1
_ORPHANED = 3
"""Exit code when the parent went away."""


def main() -> int:
    """Run one host; what it is and what it does comes through standard input, what it says goes to standard output."""
    output = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed here must not get between the messages
    logs.configure(level="WARNING")
    sender = Sender(FileObject(output, "wb"))
    messages = receive(FileObject(0, "rb", close=False))
    try:
        given = next(messages, None)
        if given is None:
            return _ORPHANED
        _end_with(given["parent"])
        spec = HostSpec(given["index"], LoadOptions.from_data(given["options"]), given["admin"])
    except (BadLine, KeyError, TypeError) as error:
        sys.stderr.write(f"loadtest.py: {sys.argv[1:]} is for its own use: {type(error).__name__}: {error}\n")
        return 2
    stop = Stop()
    process = LocalProcess([spec], stop, lambda sample: sender.send({"progress": sample}))
    steps: SimpleQueue[dict[str, Any]] = SimpleQueue()
    gevent.spawn(_listen, messages, stop, steps)
    while True:
        message = steps.get()
        if message["do"] == "exit":
            return 0
        sender.send(_take(process, message, stop))


def _listen(messages: Iterator[dict[str, Any]], stop: Stop, steps: SimpleQueue[dict[str, Any]]) -> None:
    """Hear the parent also in the middle of a step, and end with it."""
    with suppress(BadLine, OSError):
        for message in messages:
            if message["do"] == "stop":
                stop.ask(0)
            else:
                steps.put(message)
            if message["do"] == "exit":
                return
    os._exit(_ORPHANED)  # nobody is left who wants an orderly end, and one with a million actors takes long


def _take(process: LocalProcess, message: dict[str, Any], stop: Stop) -> dict[str, Any]:
    """Take one step; return the answer."""
    step: Callable[..., Any] = getattr(process, message["do"])
    try:
        value = step(*message["arguments"])
    except Exception as error:  # noqa: BLE001 - it is raised in the parent
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    if message["do"] == "finish":
        value = [{**result, "activated": b64encode(result["activated"]).decode("ascii")} for result in value]
    return {"value": value, "error": stop.error, "exit_code": stop.exit_code}


def _end_with(parent: int) -> None:
    """Let the kernel end this process with its parent, where it can; elsewhere the end of standard input does."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the kernel knew
            os._exit(_ORPHANED)
