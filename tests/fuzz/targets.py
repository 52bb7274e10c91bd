"""What is fuzzed, and what must hold whatever the bytes are. Used by the harnesses here and by the test suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeVar
from wsgiref.util import setup_testing_defaults

import gevent

from theatre_gevent import Host, Ref
from theatre_gevent.admin.views import VIEWS
from theatre_gevent.logic import codec, handshake
from theatre_gevent.logic.connection import CLOSED, OPEN, Connection, Event, Failed
from theatre_gevent.logic.envelopes import Request, Send

T = TypeVar("T")

A, B = handshake.Identity("a", 1, "127.0.0.1:1"), handshake.Identity("b", 2, "127.0.0.1:2")
SECRET = b"what all hosts know"
TOKEN = "correct-horse-battery-staple"  # noqa: S105 - of these tests alone


class Source:
    """Reads choices out of bytes; when they have come to an end, it makes the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """Return a number from 0."""
        return self.take(1)[0] % below if self else 0

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def some(self) -> bytes:
        """Return up to 255 bytes; how many is the first."""
        return self.take(self.number(256))

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of these."""
        return choices[self.number(len(choices))]


# -- the handshake -----------------------------------------------------------------------------------------------------


def frames_of(data: bytes) -> list[bytes]:
    """Cut what a connection sends into frames."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def handshake_input(data: bytes) -> int:
    """Let somebody who does not know the secret stand between hosts that do: deliver, repeat, swap, change, make up.

    Whoever opens a connection has a counterpart that has said and heard the same.

    Returns:
        How many ends were opened.
    """
    source = Source(data)
    ends = [
        *(Connection("dialler", A, nonce=bytes([n]) * 16, now=0.0, secret=SECRET) for n in (1, 2)),
        *(Connection("acceptor", B, nonce=bytes([n]) * 16, now=0.0, secret=SECRET) for n in (3, 4)),
    ]
    said: list[bytes] = []
    for _ in range(64):
        for end in ends:
            said += frames_of(end.data_to_send())
        if not source:
            break
        frame = source.pick(said)
        what = source.number(8)
        if what == 1 and len(frame) > 5:  # change a byte
            place = 5 + source.number(len(frame) - 5)
            frame = frame[:place] + bytes([frame[place] ^ (1 + source.number(255))]) + frame[place + 1 :]
        elif what == 2:  # another kind of frame with the same content
            frame = frame[:4] + bytes([source.pick(sorted(codec.KIND_NAMES))]) + frame[5:]
        elif what == 3:  # made up
            content = source.some()
            frame = (1 + len(content)).to_bytes(4, "big") + bytes([source.pick(sorted(codec.KIND_NAMES))]) + content
        elif what == 4:  # cut short
            frame = frame[: source.number(len(frame)) + 1]
        end = source.pick(ends)
        check_events(end, end.receive_data(frame, 0.0))
    opened = [end for end in ends if end.state is OPEN]
    for end in opened:
        twins = [each for each in ends if each is not end and each._challenge == end._challenge]
        assert any(each._hello == end._hello for each in twins), "opened without a counterpart that knows the secret"
    return len(opened)


# Which frame, how it is changed (not at all), to whom: the diallers are 0 and 1, and greet; the rest are answers.
HONEST = bytes([0, 0, 2, 2, 0, 0, 3, 0, 2, 4, 0, 0])

# -- a connection in use ---------------------------------------------------------------------------------------------


def opened() -> tuple[Connection, Connection]:
    """Return a dialler and an acceptor that have let each other in."""
    one, other = Connection("dialler", A, nonce=bytes(16), now=0.0), Connection("acceptor", B, nonce=bytes(16), now=0.0)
    while one.state is not OPEN or other.state is not OPEN:
        other.receive_data(one.data_to_send(), 0.0)
        one.receive_data(other.data_to_send(), 0.0)
    return one, other


CONNECTION_SEEDS = (
    bytes([0, 0, 3, 65, 66, 67, 2, 1, 2, 9, 1, 7, 1, 1, 1, 66, 0, 7, 0, 4, 1, 4]),
    bytes([0, 0, 0, 0, 0, 1, 6, 3, 1, 3, 40, 1, 3, 60, 0, 5]),
    bytes([0, 2, 9, 0, 0, 0, 5, codec.GOODBYE, 0x91, 0xA2, 98, 121, 1, 4]),
)


def check_events(connection: Connection, events: list[Event]) -> None:
    """Hold a connection to what it promises of its events."""
    failures = [event for event in events if type(event) is Failed]
    assert len(failures) <= 1
    for failure in failures:
        assert events[-1] is failure, "the failure is the last event"
        assert isinstance(failure.error, codec.ProtocolError)
        assert str(failure.error)
        assert connection.state is CLOSED


def connection_input(data: bytes) -> None:
    """Use two ends for a while, over a network that changes what it likes, while time passes."""
    source, now = Source(data), 0.0
    ends = opened()
    for _ in range(64):
        if not source:
            break
        number = source.number(2)
        one, other = ends[number], ends[1 - number]
        what, was_closed = source.number(8), one.state is CLOSED
        events: list[Event] = []
        if what == 0 and one.state is OPEN:
            ref, body = Ref("t", "1" + source.some().decode("latin-1")), source.some()
            one.send([Send(ref, body), Request(ref, body, source.number(256), 1.0)])
        elif what == 1:
            one.goodbye(source.some().decode("latin-1"), 1)
        elif what == 2:
            events = one.receive_data(source.some(), now)
        elif what == 3:
            now = min(now + source.number(64) / 4, 1e6)
            events = one.check(now)
        elif what == 4 and one.next_deadline() < 1e9:  # who waits as long as it says does not wait in vain
            due = max(now, one.next_deadline())
            before, now = one.next_deadline(), due
            events = one.check(now)
            waiting = one.data_to_send()
            assert events or waiting or one.next_deadline() > before, "it asks to be looked at, and nothing comes of it"
            check_events(other, other.receive_data(waiting, now))
        elif what == 5:
            events = one.receive_eof(now)
        else:  # what the other has to say, whole or in part
            waiting = other.data_to_send()
            events = one.receive_data(waiting[: len(waiting) - source.number(8)] if what == 6 else waiting, now)
        check_events(one, events)
        if was_closed:
            assert not events
            assert one.state is CLOSED, "who is closed stays so"
        assert (one.state is CLOSED) or one.peer is not None


# -- the admin server -----------------------------------------------------------------------------------------------

PATHS = (
    *(
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/static/app.js",
        "/static/../app.py",
        "/cluster/drain",
        "/cluster/freeze",
    ),
    *(view.path for view in VIEWS),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "")
QUERIES = ("", "type=x&id=1", "type=x", "limit=3&prefix=1", "after=x/1", "host=a", "host=b", "limit=-1", "a=b")
HEADERS = (
    *("HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_ACCEPT", "HTTP_SEC_FETCH_SITE", "HTTP_SEC_FETCH_MODE"),
    *("CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_ORIGIN", "HTTP_COOKIE"),
)
VALUES = (
    *("localhost", "evil.example", "127.0.0.1:1", "[::1]:1", f"Bearer {TOKEN}", "Bearer x", "Theatre-Peer 00"),
    *("cross-site", "navigate", "application/json", "application/openmetrics-text", "0", "2", "-1", "99999999"),
)
OPEN_TO_ALL = ("/", "", "/healthz", "/readyz")


def admin_seeds() -> list[bytes]:
    """Return inputs to begin with: each address, with every query, with the token and without one."""
    found = []
    for path in range(len(PATHS)):
        for query in range(len(QUERIES)):
            for secured in (0, 1):
                token = [1, HEADERS.index("HTTP_AUTHORIZATION"), VALUES.index(f"Bearer {TOKEN}"), 0] if secured else [0]
                found.append(bytes([secured, 0, path, 0, query, 0, *token, 0]))
    kind = [2, HEADERS.index("CONTENT_TYPE"), VALUES.index("application/json"), 0]
    token = [HEADERS.index("HTTP_AUTHORIZATION"), VALUES.index(f"Bearer {TOKEN}"), 0]
    found += [
        bytes([1, 2, PATHS.index("/cluster/drain"), 0, 0, 0, *kind, *token, len(body)]) + body
        for body in (b"{}", b"[1]")
    ]
    return found


class AdminServers:
    """The admin applications of two hosts, one of them with a token."""

    def __init__(self) -> None:
        self.hosts: dict[bool, Host] = {}
        self._asked = 0
        for secured in (False, True):
            self._start(secured)

    def _start(self, secured: bool) -> None:
        host = Host(host_id="a", admin_token=TOKEN if secured else None).start()
        host.register_actor("x", lambda ctx: None)
        for number in range(5):
            host.spawn_local(Ref("x", str(number)))
        _ = host.admin_app
        self.hosts[secured] = host

    def close(self) -> None:
        """Stop the hosts."""
        for host in self.hosts.values():
            host.stop()

    def one_input(self, data: bytes) -> int:
        """Ask something; returns the status of the answer.

        There is always an answer, never that of a server that has failed; what it says is well formed; and without the
        token nothing but what is open to all is answered, and nothing is done to the host.
        """
        self._asked += 1
        if not self._asked % 100:
            gevent.sleep(0)  # else the hub is stuck
        source = Source(data)
        secured = bool(source.number(2))
        host = self.hosts[secured]
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ["REQUEST_METHOD"] = source.pick(METHODS) or source.some().decode("latin-1").upper() or "GET"
        environ["PATH_INFO"] = source.pick(PATHS) + source.some().decode("latin-1")
        environ["QUERY_STRING"] = source.pick(QUERIES) + source.some().decode("latin-1")
        for _ in range(source.number(5)):
            header = source.pick(HEADERS)
            environ[header] = source.pick(VALUES) + source.some().decode("latin-1")
        environ["wsgi.input"] = BytesIO(source.some())
        status, headers, body = self._ask(host, environ)
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        assert status < 500 or (status in (502, 503) and path.startswith(("/cluster", "/readyz", "/healthz"))), (
            status,
            environ,
        )
        if headers["content-type"] == "application/json" and body:
            json.loads(body)
        assert "default-src 'none'" in headers.get("content-security-policy", "default-src 'none'")
        knows = TOKEN in environ.get("HTTP_AUTHORIZATION", "")
        if status < 300 and secured and not knows:
            assert path in OPEN_TO_ALL or path.startswith("/static/"), environ
        if status != 202:
            assert host.state == "active", environ
        else:  # it freezes or stops, or is about to
            assert secured, environ
            assert knows, environ
            assert method == "POST", environ
            host.stop()
            self._start(secured)
        return status

    @staticmethod
    def _ask(host: Host, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        answer: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            answer[:] = [int(status[:3]), {name.lower(): value for name, value in headers}]

        parts = host.admin_app(environ, start_response)
        body = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        for name, value in answer[1].items():
            assert not set("\r\n\0") & set(name + value), "a header must not be cut in two"
        return answer[0], answer[1], body
