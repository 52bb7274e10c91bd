"""What `theatre status` and `theatre actors` make of servers that are none of ours, or broken: a line, an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

import pytest
from gevent.server import StreamServer

from theatre_gevent.cli.main import main


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Answer every request with these bytes, and hang up."""

    def handle(connection: socket, _: object) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked and (piece := connection.recv(4096)):
            asked += piece
        connection.sendall(answer)
        connection.close()

    listener = StreamServer(("127.0.0.1", 0), handle)
    listener.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.stop()


def ok(body: str) -> bytes:
    data = body.encode("utf-8", "surrogatepass")
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


@pytest.mark.parametrize("command", ["status", "actors"])
@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"hosts": null, "actors": null}',
        '{"hosts": {"a": 1}, "actors": "none"}',
        '{"hosts": [7], "actors": [7], "total": 1, "silent": [], "next": null}',
        '{"hosts": [{"host_id": "a", "remaining_lease_ms": "soon"}], "actors": [{"type": "cart"}]}',
        '{"hosts": [{"status": {}}], "actors": [], "total": 0, "silent": [{}], "next": null}',
        '{"hosts": [{"host_id": "a", "status": {"remaining_lease_ms": 1%s}}], "actors": []}' % ("0" * 400),
    ],
    ids=["empty", "null", "no list", "numbers", "other fields", "fields missing", "huge number"],
)
def test_an_object_of_another_server_is_one_line(command: str, body: str, capsys: pytest.CaptureFixture[str]) -> None:
    with server(ok(body)) as url:
        assert main([command, url]) == 1
    assert capsys.readouterr() == (
        "",
        f"theatre: what answers at {url} is no admin server, or one of another version\n",
    )


def test_json_of_another_server_is_not_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with server(ok('{"status": "fine"}')) as url:
        assert main(["actors", url, "--json"]) == 1
    assert capsys.readouterr() == (
        "",
        f"theatre: what answers at {url} is no admin server, or one of another version\n",
    )


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 500 Oh no\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 1, "refuses: 500 Oh no"),
        (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", 2, "refuses: 400 Bad"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\n\xff\xfe{", 1, "refuses: 503 Busy"),
        (b'HTTP/1.1 500 X\r\n\r\n{"error":"\\u001b[31m"}', 1, r"refuses: \x1b[31m"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 1, "no admin server answers at"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{", 1, "is no admin server"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 1, "no admin server answers at"),
    ],
    ids=["chunks", "cut chunk", "not UTF-8", "escape", "fine and broken", "cut", "not HTTP"],
)
def test_a_broken_answer_is_one_line(answer: bytes, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with server(answer) as url:
        assert main(["status", url]) == code
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("theatre: ")
    assert errors.count("\n") == 1
    assert said in errors


def test_nothing_that_is_shown_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    body = r'{"actors": [], "total": 0, "silent": [{"host_id": "a\u001b[2J", "error": "\ud800"}], "next": "\u0007"}'
    with server(ok(body)) as url:
        assert main(["actors", url]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    assert r"host a\x1b[2J does not answer: \ud800" in out
    assert r"more with --after \x07" in out
