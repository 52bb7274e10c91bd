"""What may be registered, and how a mistake is named."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.support import Recorder, run_in_steps
from theatre_gevent import (
    Context,
    Host,
    InvalidRef,
    Ref,
    RegistrationError,
    RemoteActorError,
    TheatreError,
    UnregisteredActorType,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")


class Greeter:
    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    def receive(self, ctx: Context) -> None:
        ctx.reply(f"{self.greeting} {ctx.message}")


class Needy(Greeter):
    def __init__(self, greeting: str) -> None:
        super().__init__(greeting)


def plain(ctx: Context) -> None:
    ctx.reply(f"plain {ctx.message}")


def with_default(ctx: Context, greeting: str = "default") -> None:
    ctx.reply(f"{greeting} {ctx.message}")


class Callable1:
    def __call__(self, ctx: Context) -> None:
        ctx.reply(f"called {ctx.message}")


@pytest.mark.parametrize(
    ("factory", "answer"),
    [
        (Greeter, "hello x"),
        (lambda: Greeter("good day"), "good day x"),
        (partial(Greeter, "partly"), "partly x"),
        (partial(Needy, "needed"), "needed x"),
        (plain, "plain x"),
        (with_default, "default x"),
        (partial(with_default, greeting="partial"), "partial x"),
        (Callable1(), "called x"),
        (Greeter("bound").receive, "bound x"),
    ],
    ids=[
        "class",
        "factory",
        "partial",
        "partial of class",
        "function",
        "default",
        "partial of function",
        "object",
        "method",
    ],
)
def test_forms(host: Host, clock: VirtualClock, factory: Any, answer: str) -> None:
    host.register_actor("a", factory)
    assert run_in_steps(clock, lambda: host.request(A, "x")) == answer


def test_each_actor_gets_a_receiver_of_its_own(host: Host) -> None:
    class Counter:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def receive(self, ctx: Context) -> None:
            if ctx.is_request:
                self.seen.append(ctx.message)
                ctx.reply(list(self.seen))

    host.register_actor("a", Counter)
    assert host.request(Ref("a", "1"), "x") == ["x"]
    assert host.request(Ref("a", "2"), "y") == ["y"]
    assert host.request(Ref("a", "1"), "z") == ["x", "z"]


def test_decorated_class_and_function_stay_what_they_were(host: Host) -> None:
    @host.actor("one")
    class One:
        def receive(self, ctx: Context) -> None:
            ctx.reply("one")

    @host.actor("two")
    def two(ctx: Context) -> None:
        ctx.reply("two")

    assert isinstance(One(), One)
    assert callable(two)
    assert two.__name__ == "two"
    assert host.request(Ref("one", "1"), "x") == "one"
    assert host.request(Ref("two", "1"), "x") == "two"


def test_a_type_may_be_registered_before_and_after_start(clock: VirtualClock) -> None:
    host = Host(clock=clock)
    host.register_actor("early", Greeter)
    with host:
        host.register_actor("late", Greeter)
        assert host.request(Ref("early", "1"), "x") == "hello x"
        assert host.request(Ref("late", "1"), "x") == "hello x"


def test_nothing_is_made_before_the_first_message(host: Host) -> None:
    recorder = Recorder()
    host.register_actor("a", recorder)
    assert recorder.instances == 0
    host.request(A, "x")
    host.request(A, "y")
    assert recorder.instances == 1


@pytest.mark.parametrize("bad", ["", None, 5, b"a", ["a"], Ref("a", "b")])
def test_a_type_needs_a_name(host: Host, bad: Any) -> None:
    with pytest.raises(RegistrationError, match="actor type must be a non-empty string, got ") as caught:
        host.register_actor(bad, Greeter)
    assert repr(bad) in str(caught.value)
    assert isinstance(caught.value, TheatreError)


def test_registering_twice(host: Host) -> None:
    host.register_actor("a", Greeter)
    with pytest.raises(RegistrationError, match="actor type 'a' is registered already"):
        host.register_actor("a", plain)
    with pytest.raises(RegistrationError, match="actor type 'a' is registered already"):
        host.actor("a")(plain)
    assert host.request(A, "x") == "hello x"


class Mute:
    pass


async def coroutine(ctx: Context) -> None: ...


class AsyncReceiver:
    async def receive(self, ctx: Context) -> None: ...


def generator(ctx: Context) -> Iterator[None]:
    yield


class YieldingReceiver:
    def receive(self, ctx: Context) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Mute, r"class Mute .*'a' has no receive\(self, ctx\) method"),
        (Needy, "class Needy .*'a' needs arguments: register a factory such as"),
        (Greeter(), "must be a class, a function .* got .*register its class or a factory"),
        (None, "must be a class, a function without arguments or a function f.ctx., got None"),
        ("Greeter", "must be a class, .* got 'Greeter'"),
        (lambda one, two: None, "must take no argument .* or one .* requires 2"),
        (coroutine, "coroutine"),
        (AsyncReceiver, "coroutine"),
        (generator, "generator function, whose body nobody would run"),
        (YieldingReceiver, "generator"),
    ],
    ids=[
        *("no receive", "needs arguments", "instance", "None", "string", "two arguments"),
        *("async def", "async receive", "yield", "receive with yield"),
    ],
)
def test_what_cannot_be_a_factory(host: Host, bad: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        host.register_actor("a", bad)
    with pytest.raises(UnregisteredActorType):
        host.send(A, "x")


@pytest.mark.parametrize(
    ("made", "message"),
    [(AsyncReceiver, "coroutine function"), (YieldingReceiver, "generator function"), (Mute, r"has no receive\(ctx\)")],
)
def test_what_a_factory_makes_is_looked_at_as_well(host: Host, made: Any, message: str) -> None:
    kinds: list[Any] = [Greeter, made]
    host.register_actor("a", lambda: kinds[0]())
    assert host.request(A, "x") == "hello x"
    kinds.reverse()
    for _ in range(2):
        with pytest.raises(RemoteActorError, match=message):
            host.request(Ref("a", "2"), "x")


def test_an_unknown_type_is_named_with_the_known_ones(host: Host) -> None:
    host.register_actor("zebra", Greeter)
    host.register_actor("ant", Greeter)
    for verb in (lambda: host.send(A, "x"), lambda: host.request(A, "x"), lambda: host.spawn_local(A)):
        with pytest.raises(UnregisteredActorType) as caught:
            verb()
        assert "'a'" in str(caught.value)
        assert "(registered: 'ant', 'zebra')" in str(caught.value)
        assert (caught.value.actor_type, caught.value.registered) == ("a", ["ant", "zebra"])


def test_an_unknown_type_when_none_is_known(host: Host) -> None:
    with pytest.raises(UnregisteredActorType, match=r"\(registered: none\)"):
        host.send(A, "x")


def test_an_actor_that_addresses_an_unknown_type_gets_the_same_error(host: Host) -> None:
    caught: list[Exception] = []

    @host.actor("a")
    def ask(ctx: Context) -> None:
        for verb in (ctx.send, ctx.request):
            try:
                verb(Ref("nobody", "1"), "x")
            except UnregisteredActorType as error:
                caught.append(error)

    host.send(A, "go")
    host.stop()
    assert len(caught) == 2 * 3  # Initialize, "go" and Shutdown
    assert "registered: 'a'" in str(caught[0])


@pytest.mark.parametrize("bad", [None, "a/1", ("a", "1"), ["a", "1"], {"type": "a"}, 5, b"a/1", object()])
def test_what_is_not_a_ref(host: Host, bad: Any) -> None:
    host.register_actor("a", Greeter)
    caught = []
    for verb in (lambda: host.send(bad, "x"), lambda: host.request(bad, "x"), lambda: host.spawn_local(bad)):
        with pytest.raises(InvalidRef, match=r"addressed by a Ref\('type', 'id'\), got ") as error:
            verb()
        caught.append(str(error.value))
    assert all(repr(bad) in text for text in caught)
    assert host.metrics.snapshot()["messages_sent"] == 0
