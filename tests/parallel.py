"""What only one of the processes that run tests may do at a time."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Wait until no other process of this machine is in here for the same thing."""
    with (Path(tempfile.gettempdir()) / f"{what}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                gevent.sleep(0.05)
        yield
