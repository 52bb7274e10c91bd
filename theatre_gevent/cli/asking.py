"""What an admin server says, over HTTP, for people or as it is."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import ujson

from .errors import CommandError, UsageMistake

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

_LARGEST = 64 << 20
"""Bytes of an answer; a thousand actors take a third of a megabyte."""


def status(given: Namespace, say: Callable[[str], None]) -> None:
    """Show the hosts of a cluster.

    Raises:
        CommandError: The server does not answer, refuses, or is no admin server.
    """
    _show(given, "hosts", _ask(given, "/cluster/all-status", {}), _hosts, say)


def actors(given: Namespace, say: Callable[[str], None]) -> None:
    """Show a page of the active actors of a cluster.

    Raises:
        CommandError: The server does not answer, refuses, or is no admin server.
    """
    wanted = {"type": given.type, "prefix": given.prefix, "limit": given.limit, "after": given.after}
    answer = _ask(given, "/cluster/all-actors", {name: value for name, value in wanted.items() if value is not None})
    _show(given, "actors", answer, _page, say)


def _show(
    given: Namespace,
    name: str,
    answer: dict[str, Any],
    lines: Callable[[dict[str, Any]], list[str]],
    say: Callable[[str], None],
) -> None:
    """Say an answer, which has a list called `name`, as it is or in lines."""
    try:
        if not isinstance(answer[name], list):
            raise TypeError(name)
        shown = [ujson.dumps(answer, escape_forward_slashes=False)] if given.json else lines(answer)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # any server may answer with JSON
        raise CommandError(
            f"what answers at {_base(given.url)} is no admin server, or one of another version"
        ) from None
    for line in shown:
        say(line)


def _hosts(answer: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("HOST", "STATE", "EPOCH", "LEASE", "ACTORS", "QUEUED", "ADDRESS", "ADMIN", "NOTE")]
    return _table([*rows, *map(_host, answer["hosts"])])


def _page(answer: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("ACTOR", "HOST", "STATE", "MESSAGES", "ERRORS", "QUEUED", "LAST MESSAGE")]
    rows += [
        (
            f"{entry['type']}/{entry['id']}", entry["host_id"], entry["state"], str(entry["messages_total"]),
            str(entry["errors_total"]), str(entry["inbox_size"]), entry["last_message"] or "-",
        )
        for entry in answer["actors"]
    ]  # fmt: skip
    lines = [*_table(rows), f"{len(answer['actors'])} of {answer['total']} actors"]
    lines += [f"host {silent['host_id']} does not answer: {silent['error']}" for silent in answer["silent"]]
    if answer["next"]:
        lines.append(f"more with --after {answer['next']}")
    return [_printable(line) for line in lines]


def _host(entry: dict[str, Any]) -> tuple[str, ...]:
    said = entry.get("status") or entry
    lease = said.get("remaining_lease_ms")
    return (
        str(entry["host_id"]),
        str(said.get("state") or "-"),
        str(said.get("epoch") or "-"),
        "-" if lease is None else f"{lease / 1000:.1f} s",
        str(said.get("active_actors", "-")),
        str(said.get("inbox_depth", "-")),
        str(said.get("address") or "-"),
        str(said.get("admin_addr") or "-"),
        str(entry.get("error") or ""),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    shown = [tuple(_printable(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]


def _printable(text: str) -> str:
    """Ids are chosen by whoever sends messages: none may command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _ask(given: Namespace, path: str, query: dict[str, Any]) -> dict[str, Any]:
    base = _base(given.url)
    headers = {"Accept": "application/json"}
    if given.admin_token:
        headers["Authorization"] = f"Bearer {given.admin_token}"
    target = base + path + (f"?{urlencode(query)}" if query else "")
    try:
        # Without proxies: admin servers are near, and the token is nobody else's business.
        with build_opener(ProxyHandler({})).open(Request(target, headers=headers), timeout=given.timeout) as answer:  # noqa: S310 - `_base` lets http(s) pass alone
            body = answer.read(_LARGEST)
    except HTTPError as error:
        raise _refused(base, error) from None
    except URLError as error:
        raise CommandError(f"no admin server answers at {base}: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"no admin server answers at {base}: {error or type(error).__name__}") from None
    except ValueError as error:  # a token or name that can't be part of a request
        raise UsageMistake(f"{base} can't be asked: {error}") from None
    answered = _json(body)
    if answered is None:
        raise CommandError(f"what answers at {base} is no admin server")
    return answered


def _base(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageMistake(f"the URL must be an admin server such as http://127.0.0.1:9090, got {url!r}")
    return text.split("?")[0].split("#")[0].rstrip("/")


def _refused(base: str, error: HTTPError) -> CommandError:
    try:
        body = error.read(_LARGEST)
    except (OSError, http.client.HTTPException):
        body = b""  # the status says enough
    said = _json(body) or {}
    text = said.get("error") or f"{error.code} {error.reason}"
    if error.code == 401:
        return UsageMistake(f"{base} needs its token: give the right --admin-token, or set THEATRE_ADMIN_TOKEN")
    return CommandError(f"{base} refuses: {_printable(str(text))}", 2 if error.code == 400 else 1)


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        answer = ujson.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
