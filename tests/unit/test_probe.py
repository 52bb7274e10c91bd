"""What a probe records, answers and waits for."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest

from theatre_gevent import Context, Host, Initialize, Ref, RegistrationError, RemoteActorError, RequestTimeout, Shutdown
from theatre_gevent.testing import ActorProbe, Received, VirtualClock

A = Ref("probe", "a")
B = Ref("probe", "b")


def test_it_records_in_order_who_got_what_from_whom_and_where(make_host: Any) -> None:
    hosts = [make_host(host_id=name) for name in ("one", "two")]
    probe = ActorProbe()
    probe.register("probe", *hosts)
    hosts[1].register_actor("relay", lambda ctx: None if isinstance(ctx.message, Initialize) else ctx.send(B, 2))
    hosts[0].send(A, 1)
    probe.wait_for(1)
    hosts[1].send(Ref("relay", "x"), "go")
    assert probe.wait_for(lambda messages: 2 in messages) == [1, 2]
    hosts[0].send(A, 3)
    probe.wait_for(3)
    assert probe.received == [
        Received(A, 1, None, "one"),
        Received(B, 2, Ref("relay", "x"), "two"),
        Received(A, 3, None, "one"),
    ]
    assert probe.messages == [1, 2, 3]
    assert probe.refs == [A, B]
    assert probe.of(A) == [1, 3]
    probe.clear()
    assert probe.received == []


def test_it_records_the_life_of_an_actor_if_asked_to(clock: VirtualClock, host: Host) -> None:
    probe = ActorProbe(lifecycle=True)
    probe.register("probe", host)
    host.send(A, 1)
    clock.advance(17)
    assert probe.messages == [Initialize(), 1, Shutdown()]


def test_it_answers_requests(host: Host) -> None:
    ActorProbe(reply=None).register("none", host)
    assert host.request(Ref("none", "1"), "?") is None

    def double(ctx: Context) -> None:
        ctx.reply(ctx.message * 2)

    doubling = ActorProbe(receive=double)
    doubling.register("double", host)
    assert host.request(Ref("double", "1"), 21) == 42
    with pytest.raises(RemoteActorError, match="TypeError"):
        host.request(Ref("double", "1"), None)
    assert doubling.messages == [21, None]  # what made it fail too


def test_without_an_answer_requests_time_out(clock: VirtualClock, host: Host) -> None:
    probe = ActorProbe()
    probe.register("probe", host)
    before = clock.monotonic()
    with pytest.raises(RequestTimeout):
        clock.run(host.request, A, "?", 30.0)
    assert 30.0 <= clock.monotonic() - before < 31.0


def test_it_waits_while_a_native_thread_sends(real_host: Host) -> None:
    probe = ActorProbe()
    probe.register("probe", real_host)

    def send() -> None:
        for number in range(100):
            real_host.send(A, number)

    thread = gevent.get_hub().threadpool.spawn(send)
    assert probe.wait_for(100, timeout=30) == list(range(100))
    thread.get()


def test_what_did_not_come_is_an_error_that_shows_what_did(host: Host) -> None:
    probe = ActorProbe()
    probe.register("probe", host)
    with pytest.raises(AssertionError, match=r"^1 message did not come within 0 s; the probe received nothing$"):
        probe.wait_for(1, timeout=0)
    for number in range(25):
        host.send(A, f"m{number}")
        gevent.sleep(0)
    probe.wait_for(25)
    with pytest.raises(AssertionError) as caught:
        probe.wait_for(26, timeout=0.01)
    lines = str(caught.value).split("\n")
    assert lines[0] == "26 messages did not come within 0.01 s; the probe received 25 (the last 20 are shown):"
    assert lines[1:] == [f"  {n + 1}. probe/a on {host.host_id}: 'm{n}'" for n in range(5, 25)]

    def is_there(messages: list[Any]) -> bool:
        return "m25" in messages

    where = rf"^what \S*is_there \({re.escape(__file__)}:\d+\) waits for did not come within 0.01 s; the probe "
    with pytest.raises(AssertionError, match=where):
        probe.wait_for(is_there, timeout=0.01)


def test_what_makes_no_sense_is_refused(host: Host) -> None:
    with pytest.raises(ValueError, match="either reply or receive"):
        ActorProbe(reply=1, receive=print)
    with pytest.raises(ValueError, match="on which hosts"):
        ActorProbe().register("probe")
    ActorProbe().register("probe", host)
    with pytest.raises(RegistrationError, match="registered already"):
        ActorProbe().register("probe", host)


def test_what_can_not_receive_is_refused() -> None:
    async def coroutine(ctx: Context) -> None: ...

    def generator(ctx: Context) -> Any:
        yield

    def with_more(ctx: Context, more: int) -> None: ...

    refused: list[tuple[Any, str]] = [
        (3, r"must be a function f\(ctx\), got 3"),
        (coroutine, "is a coroutine function"),
        (generator, "is a generator function"),
        (lambda: None, r"called with a context alone, f\(ctx\): too many positional arguments"),
        (with_more, "missing a required argument: 'more'"),
    ]
    for receive, why in refused:
        with pytest.raises(RegistrationError, match=why):
            ActorProbe(receive=receive)
    ActorProbe(receive=print)
