"""Reading and writing of sockets that never wait. Compiled modules make the calls of the system themselves.

Python lets other threads run around each call, since it may wait; these don't, and so are left to themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


def receive(sock: socket.socket, number: int, at_most: int) -> bytes:
    """Return what has come, empty at the end of the stream. `number` is the file descriptor, -1 once closed.

    Raises:
        OSError: As `socket.recv`.
    """
    return sock.recv(at_most)


def send(sock: socket.socket, number: int, data: bytes) -> int:
    """Return how many bytes the socket has taken.

    Raises:
        OSError: As `socket.send`.
    """
    return sock.send(data)
