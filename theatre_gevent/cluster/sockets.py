"""Sockets: addresses, listening, dialling, TLS. gevent's own sockets, so that an unpatched program works too.

The one place besides the clock that sets a timer of gevent's: `dial` bounds what the operating system and the name
service may take.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import ssl
from contextlib import suppress
from typing import NamedTuple, cast

from gevent import Timeout, socket
from gevent import ssl as green_ssl

from ..errors import CannotListen, InvalidOption, TheatreError

Socket = socket.socket


class Address(NamedTuple):
    """Host name or IP address, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DialFailed(TheatreError):
    """A connection could not be made. The text says why."""


def parse_address(text: object, name: str = "address") -> Address:
    """Read `host:port`, `[IPv6]:port` for an IPv6 address.

    Raises:
        InvalidOption: It is none; the text names `name`.
    """
    if isinstance(text, str):
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        plain = bracketed or ":" not in host
        if colon and host and plain and host.isprintable() and port.isascii() and port.isdecimal():
            number = int(port)
            if number <= 65535:
                return Address(host, number)
    raise InvalidOption(f"{name} must be 'host:port' such as '127.0.0.1:7001' or '[::1]:7001', got {text!r}")


def is_wildcard(host: str) -> bool:
    """Tell whether `host` stands for all addresses of the machine, so that no other can use it to get here."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def listen(address: Address) -> Socket:
    """Return a listening socket.

    Raises:
        CannotListen: Naming address and reason.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        listener = Socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter for names that no name service could know
        raise CannotListen(f"cannot listen at {address}: {describe(error)}") from error
    return listener


def dial(address: Address, timeout: float) -> Socket:
    """Connect.

    Args:
        address: Where to.
        timeout: Seconds for everything, the look-up of the name included. Where that has several addresses, each is
            given an equal share: the first one may swallow what is sent there.

    Raises:
        DialFailed: It did not work in time.
    """
    expired = Timeout(timeout)
    try:
        with expired:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            failure: OSError | None = None
            for family, kind, protocol, _, where in found:
                sock = Socket(family, kind, protocol)
                try:
                    sock.settimeout(timeout / len(found))
                    sock.connect(where)
                except OSError as error:
                    sock.close()
                    failure = error
                except BaseException:
                    sock.close()
                    raise
                else:
                    return sock
            raise failure or OSError("its name has no address")
    except Timeout as error:
        if error is not expired:
            raise
        raise DialFailed(f"no connection after {timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        raise DialFailed(describe(error)) from error


def prepare(sock: Socket) -> None:
    """Set what every connection needs: batches go out at once, nothing times out by itself."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def encrypt(sock: Socket, context: ssl.SSLContext, *, server_host: str | None) -> Socket:
    """Wrap a connected socket; the TLS handshake has yet to be done, by `do_handshake` of what is returned.

    gevent's class is named here, so that a context of the standard library does in an unpatched program.

    Args:
        sock: Is used up.
        context: The user's.
        server_host: Name or address of the server; None at the server.
    """
    wrapped = green_ssl.SSLSocket(
        sock=sock,
        server_side=server_host is None,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=True,
        server_hostname=server_host,
        _context=context,
    )
    return cast("Socket", wrapped)


def finish_writing(sock: Socket) -> None:
    """Tell the peer that nothing more comes, while what it sends can still be read."""
    with suppress(OSError):  # it may be gone already
        # Of the base class: an encrypted socket would forget how to decrypt. The frames say where the stream ends.
        Socket.shutdown(sock, socket.SHUT_WR)


def peer_name(sock: Socket) -> str:
    """Return address and port of the other end, for the log."""
    try:
        where = sock.getpeername()
    except OSError:
        return "an address that is gone"
    return str(Address(where[0], where[1])) if isinstance(where, tuple) else str(where)


def describe(error: BaseException) -> str:
    """Return what `error` says, for a log line."""
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
            return f"the peer does not speak TLS ({error.reason})"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {error.verify_message}"
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def is_out_of_files(error: OSError) -> bool:
    """Tell whether accepting failed for want of something that comes back by itself."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
