"""`serialize_local`: what is sent on one host is copied as the network would."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from tests.conftest import MakeHost
from tests.support import until
from theatre_gevent import Context, Host, Initialize, MessageNotSerializable, Ref, Shutdown, SystemClock, message

A = Ref("a", "1")
B = Ref("a", "2")
start_new_thread = get_original("_thread", "start_new_thread")


@message("tests.copied")
@dataclass
class Copied:
    items: list[Any]


class Keeper:
    """Keeps what it gets, answers with the same object, passes on what is said to be for another."""

    def __init__(self, got: list[Any]) -> None:
        self.got = got

    def receive(self, ctx: Context) -> None:
        body = ctx.message
        if isinstance(body, (Initialize, Shutdown)):
            return
        self.got.append(body)
        if isinstance(body, dict) and "for" in body:
            target = body.pop("for")
            body["mark"] = "by the sender"
            ctx.send(target, body)
            body["mark"] = "changed afterwards"
        elif body == "unfit":
            ctx.reply(object())
        elif body == "ask":
            reply = ctx.request(B, [1, 2])
            reply.append(3)
            ctx.reply(reply)
        else:
            ctx.reply(body)


def start(make_host: MakeHost, **options: Any) -> tuple[Host, list[Any]]:
    host = make_host(**options)
    got: list[Any] = []
    host.register_actor("a", lambda: Keeper(got))
    return host, got


def test_local_messages_are_the_objects_themselves_by_default(make_host: MakeHost) -> None:
    host, got = start(make_host)
    body = object()
    assert host.request(A, body) is body
    assert got == [body]


@pytest.mark.parametrize(
    "body",
    [
        [1, [2]],
        {"k": (1, b"x")},
        {1, (2, 3)},
        Copied([Decimal("1.0"), uuid.UUID(int=3)]),
        (1 << 80, None),
    ],
)
def test_bodies_and_replies_are_equal_copies(make_host: MakeHost, body: Any) -> None:
    host, got = start(make_host, serialize_local=True)
    reply = host.request(A, body)
    assert reply == got[0] == body
    assert type(reply) is type(got[0]) is type(body)
    assert got[0] is not body
    assert reply is not got[0]
    host.send(A, body)
    gevent.sleep(0)
    gevent.sleep(0)
    assert got[1] == body
    assert got[1] is not body


def test_changes_after_sending_do_not_reach_the_receiver(make_host: MakeHost) -> None:
    host, got = start(make_host, serialize_local=True)
    body = [1]
    host.send(A, body)
    body.append(2)
    assert host.request(A, "then") == "then"
    assert got[0] == [1]


def test_messages_between_actors_are_copied_too(make_host: MakeHost) -> None:
    host, got = start(make_host, serialize_local=True)
    host.request(A, "ask")
    assert got == ["ask", [1, 2]]
    host.send(A, {"for": B})
    until(lambda: len(got) == 4)
    assert got[2:] == [{"mark": "changed afterwards"}, {"mark": "by the sender"}]


def test_what_cannot_travel_is_refused_in_the_senders_call(make_host: MakeHost) -> None:
    host, got = start(make_host, serialize_local=True)
    with pytest.raises(MessageNotSerializable, match=r"body\['k'\]"):
        host.send(A, {"k": object()})
    with pytest.raises(MessageNotSerializable, match=r"body\[1\]"):
        host.request(A, [1, object()])
    assert got == []
    assert host.metrics.snapshot()["messages_sent"] == 0
    with pytest.raises(MessageNotSerializable):
        host.request(A, "unfit")


def test_native_threads_copy_too(make_host: MakeHost) -> None:
    host, got = start(make_host, serialize_local=True, clock=SystemClock())
    results: list[Any] = []
    body = [1]

    def in_thread() -> None:
        host.send(A, body)
        try:
            host.send(A, object())
        except MessageNotSerializable as error:
            results.append(error)
        results.append(host.request(A, body))

    start_new_thread(in_thread, ())
    until(lambda: len(results) == 2)
    assert isinstance(results[0], MessageNotSerializable)
    assert results[1] == [1]
    assert len(got) == 2
    assert all(item is not body for item in (*got, results[1]))
