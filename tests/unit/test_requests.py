"""Send, request, reply: deadlines, cycles, late and double replies, and callers that are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, until
from theatre_gevent import (
    CallCycle,
    Context,
    Host,
    HostNotRunning,
    Initialize,
    Ref,
    RemoteActorError,
    RequestTimeout,
    TheatreError,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")
C = Ref("a", "3")
RESOLUTION = 0.0101
"""Timeouts are precise to 10 ms."""


@pytest.fixture
def recorder(host: Host) -> Recorder:
    recorder = Recorder()
    host.register_actor("a", recorder)
    return recorder


def nothing(ctx: Context) -> None:
    """A message that is not answered."""


# -- the plain ways --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, False, 0, "", b"", [], {}, (1, "two"), Ref("x", "y"), object()])
def test_a_reply_is_the_very_object(host: Host, body: object) -> None:
    @host.actor("echo")
    def echo(ctx: Context) -> None:
        ctx.reply(ctx.message)

    assert host.request(Ref("echo", "1"), body) is body


def test_a_request_wakes_an_idle_actor_and_a_busy_one(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    assert host.request(A, "idle") == "idle"
    host.send(A, lambda ctx: clock.sleep(1))
    clock.settle()
    task = in_background(host.request, A, "busy")
    clock.settle()
    assert not task.ready()
    clock.advance(1)
    assert task.get(block=False) == "busy"


def test_the_sender_is_the_actor_that_sent_it(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    senders: list[Ref | None] = []

    def note(ctx: Context) -> None:
        senders.append(ctx.sender)
        ctx.reply(None)

    def pass_on(ctx: Context) -> None:
        ctx.send(B, note)
        ctx.request(B, note)
        ctx.reply(None)

    host.send(B, note)
    host.request(B, note)
    host.request(A, pass_on)
    clock.settle()
    assert senders == [None, None, A, A]


def test_the_host_used_inside_a_handler_speaks_for_nobody_but_keeps_the_deadline(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    """`host.request` in a handler has no context at hand, and must not wait longer than its own request may."""
    took: list[float] = []

    def ask(ctx: Context) -> None:
        start = clock.monotonic()
        with pytest.raises(RequestTimeout):
            host.request(B, nothing, timeout=100)
        took.append(clock.monotonic() - start)

    task = in_background(host.request, A, ask, 2.0)
    clock.advance(3)
    with pytest.raises(RequestTimeout):
        task.get(block=False)
    assert took[0] <= 2 + RESOLUTION


def test_is_request_tells_whether_somebody_waits(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    seen: list[bool] = []

    def look(ctx: Context) -> None:
        seen.append(ctx.is_request)
        ctx.reply(None)
        seen.append(ctx.is_request)

    host.request(A, look)
    host.send(A, look)
    clock.settle()
    assert seen == [True, False, False, False]


def test_a_reply_to_a_plain_message_goes_nowhere(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    host.send(A, "x")
    clock.settle()
    assert host.metrics.snapshot()["replies_late"] == 0
    assert host.request(A, "y") == "y"


def test_order_is_kept_from_one_sender_to_one_receiver(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """Messages to actors that were just coming into being overtook each other."""
    expected = []
    for number in range(200):
        ref = Ref("a", str(number % 20))
        if number % 7 == 0:
            assert host.request(ref, number) == number
        else:
            host.send(ref, number)
        if number % 31 == 0:
            gevent.sleep(0)
        expected.append((ref, number))
    clock.settle()
    for number in range(20):
        ref = Ref("a", str(number))
        assert recorder.users(ref) == [sent for to, sent in expected if to == ref]


# -- timeouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.5, 3.0, 0.03])
def test_a_timeout_takes_as_long_as_it_says(
    host: Host, recorder: Recorder, clock: VirtualClock, timeout: float
) -> None:
    """Half a second took a whole one."""
    task = in_background(host.request, A, nothing, timeout)
    clock.advance(timeout - 0.001)
    assert not task.ready()
    clock.advance(RESOLUTION + 0.001)
    with pytest.raises(RequestTimeout, match=f"no reply from a/1 within {timeout:g} s"):
        task.get(block=False)
    assert host.metrics.snapshot()["requests_timed_out"] == 1


def test_the_default_timeout_is_the_option(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(request_timeout=7)
    host.register_actor("a", Recorder())
    task = in_background(host.request, A, nothing)
    clock.advance(6.99)
    assert not task.ready()
    clock.advance(0.03)
    with pytest.raises(TimeoutError):
        task.get(block=False)


def test_many_timeouts_each_at_its_time(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    start = clock.monotonic()
    ended: dict[float, float] = {}

    def ask(timeout: float) -> None:
        with pytest.raises(RequestTimeout):
            host.request(Ref("a", str(timeout)), nothing, timeout)
        ended[timeout] = clock.monotonic() - start

    timeouts = [((n * 37) % 100 + 1) / 20 for n in range(100)]
    tasks = [in_background(ask, timeout) for timeout in timeouts]
    clock.advance(6)
    for task in tasks:
        task.get(block=False)
    assert all(timeout <= ended[timeout] + 1e-6 for timeout in timeouts)
    assert all(ended[timeout] <= timeout + RESOLUTION for timeout in timeouts)


@pytest.mark.parametrize("bad", [0, -1, -0.5, 0.0, float("nan")])
@pytest.mark.parametrize("warm", [False, True])
def test_a_timeout_of_zero_or_less(host: Host, recorder: Recorder, clock: VirtualClock, bad: float, warm: bool) -> None:
    if warm:
        host.request(A, "warm")
    sent = host.metrics.snapshot()["messages_sent"]
    with pytest.raises(ValueError, match=r"timeout must be .*more than 0.* got "):
        host.request(A, "x", bad)
    assert host.metrics.snapshot()["messages_sent"] == sent
    errors: list[Exception] = []

    def ask(ctx: Context) -> None:
        try:
            ctx.request(B, "x", bad)
        except ValueError as error:
            errors.append(error)

    host.send(A, ask)
    clock.settle()
    assert len(errors) == 1


def test_a_timeout_does_not_disturb_the_handler_nor_those_behind(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    """A timeout and a retry ran an actor twice at the same time."""
    running = 0
    most = 0
    finished: list[int] = []

    def slow(number: int) -> Callable[[Context], None]:
        def handle(ctx: Context) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            clock.sleep(3)
            running -= 1
            finished.append(number)
            ctx.reply(number)

        return handle

    first = in_background(host.request, A, slow(1), 1.0)
    clock.advance(1.5)
    with pytest.raises(RequestTimeout):
        first.get(block=False)
    retry = in_background(host.request, A, slow(2), 10.0)
    clock.advance(10)
    assert retry.get(block=False) == 2
    assert finished == [1, 2]
    assert most == 1
    assert host.metrics.snapshot()["replies_late"] == 1


def test_a_request_that_ends_leaves_nothing_behind(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """Requests that had timed out stayed in a table for ever."""
    for _ in range(50):
        task = in_background(host.request, A, nothing, 0.1)
        clock.advance(0.2)
        with pytest.raises(RequestTimeout):
            task.get(block=False)
    counts = host.metrics.snapshot()
    assert (counts["requests_total"], counts["requests_timed_out"], counts["requests_pending"]) == (50, 50, 0)
    clock.advance(20)
    assert clock.pending_timers() <= 2, "the clean-up's, and none for what is over"


# -- replies late, twice, from elsewhere -----------------------------------------------------------------------


def test_a_reply_from_another_greenlet_after_receive_has_returned(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    def later(ctx: Context) -> None:
        def answer() -> None:
            clock.sleep(1)
            ctx.reply("later")

        gevent.spawn(answer)

    task = in_background(host.request, A, later)
    clock.settle()
    assert host.request(A, "meanwhile") == "meanwhile", "the actor is free while the other reply is owed"
    clock.advance(1)
    assert task.get(block=False) == "later"


def test_replies_in_another_order_reach_their_own_requests(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """Answers reached whoever happened to use a recycled request."""
    kept: dict[int, Context] = {}

    def keep(number: int) -> Callable[[Context], None]:
        return lambda ctx: kept.__setitem__(number, ctx)

    tasks = [in_background(host.request, A, keep(number)) for number in range(50)]
    clock.settle()
    for number in sorted(kept, key=lambda n: (n * 17) % 50):
        kept[number].reply(f"answer {number}")
    clock.settle()
    assert [task.get(block=False) for task in tasks] == [f"answer {number}" for number in range(50)]


def test_a_second_reply_goes_nowhere(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """The second of two replies was delivered to somebody else's request."""
    kept: list[Context] = []

    def twice(ctx: Context) -> None:
        kept.append(ctx)
        ctx.reply("first")
        ctx.reply("second")

    assert host.request(A, twice) == "first"
    task = in_background(host.request, A, kept.append)
    clock.settle()
    kept[0].reply("third")
    clock.settle()
    assert not task.ready()
    kept[1].reply("mine")
    assert task.get() == "mine"
    assert host.metrics.snapshot()["replies_late"] == 2


def test_a_late_reply_is_counted_and_reaches_nobody(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    kept: list[Context] = []
    lost = in_background(host.request, A, kept.append, 1.0)
    clock.advance(2)
    with pytest.raises(RequestTimeout):
        lost.get(block=False)
    waiting = in_background(host.request, A, kept.append, 10.0)
    clock.settle()
    kept[0].reply("too late")
    clock.settle()
    assert not waiting.ready()
    assert host.metrics.snapshot()["replies_late"] == 1
    kept[1].reply("in time")
    assert waiting.get() == "in time"


def test_a_failed_request_carries_nobody_elses_body(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """Requests that failed returned the body of another caller's reply."""

    def fail_with(text: str) -> Callable[[Context], None]:
        def handle(ctx: Context) -> None:
            raise ValueError(text)

        return handle

    tasks = [
        in_background(host.request, A, fail_with(f"error {number}") if number % 2 else f"body {number}")
        for number in range(20)
    ]
    clock.settle()
    for number, task in enumerate(tasks):
        if number % 2:
            with pytest.raises(RemoteActorError, match=rf"ValueError: error {number}$"):
                task.get(block=False)
        else:
            assert task.get(block=False) == f"body {number}"


# -- actors that ask each other --------------------------------------------------------------------------------


def test_requests_nest_through_many_actors(host: Host, recorder: Recorder) -> None:
    def descend(depth: int) -> Callable[[Context], None]:
        def handle(ctx: Context) -> None:
            below = ctx.request(Ref("a", f"level {depth}"), descend(depth - 1)) if depth else "bottom"
            ctx.reply(f"{depth} {below}")

        return handle

    answer = host.request(A, descend(50))
    assert answer.split()[:3] == ["50", "49", "48"]
    assert answer.endswith("0 bottom")


def test_an_error_travels_up_as_far_as_nobody_catches_it(host: Host, recorder: Recorder) -> None:
    def inner(ctx: Context) -> None:
        raise KeyError("deep")

    def outer(ctx: Context) -> None:
        ctx.request(B, inner)

    with pytest.raises(RemoteActorError, match="a/1 raised RemoteActorError: a/2 raised KeyError: 'deep'"):
        host.request(A, outer)


@pytest.mark.parametrize("own", [None, 100.0])
def test_a_request_inherits_what_is_left_of_its_deadline(
    make_host: MakeHost, clock: VirtualClock, own: float | None
) -> None:
    host = make_host(request_timeout=50)
    host.register_actor("a", Recorder())
    start = clock.monotonic()
    ended: dict[str, float] = {}

    def third(ctx: Context) -> None:
        try:
            ctx.request(C, nothing, own)
        finally:
            ended["third"] = clock.monotonic() - start

    def second(ctx: Context) -> None:
        clock.sleep(2)
        try:
            ctx.request(B, third, own)
        finally:
            ended["second"] = clock.monotonic() - start

    task = in_background(host.request, A, second, 5.0)
    clock.advance(20)
    with pytest.raises(RequestTimeout, match="no reply from a/1 within 5 s"):
        task.get(block=False)
    assert 5 <= ended["third"] <= 5 + 2 * RESOLUTION
    assert 5 <= ended["second"] <= 5 + 2 * RESOLUTION


def test_a_shorter_timeout_of_its_own_counts(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    start = clock.monotonic()
    ended: list[float] = []

    def ask(ctx: Context) -> None:
        with pytest.raises(RequestTimeout):
            ctx.request(B, nothing, 1.0)
        ended.append(clock.monotonic() - start)
        ctx.reply("went on")

    task = in_background(host.request, A, ask, 5.0)
    clock.advance(1.1)
    assert ended[0] <= 1 + RESOLUTION
    assert task.get(block=False) == "went on"


def test_a_plain_message_inherits_no_deadline(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(request_timeout=10)
    host.register_actor("a", Recorder())
    got: list[Any] = []

    def slow(ctx: Context) -> None:
        clock.sleep(5)
        ctx.reply("slow")

    def ask(ctx: Context) -> None:
        got.append(ctx.request(B, slow))

    def forward(ctx: Context) -> None:
        ctx.send(C, ask)
        ctx.reply("forwarded")

    task = in_background(host.request, A, forward, 1.0)
    clock.advance(6)
    assert task.get(block=False) == "forwarded"
    assert got == ["slow"]


def test_a_context_used_in_another_greenlet_passes_its_deadline_on(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    start = clock.monotonic()
    ended: list[float] = []

    def hand_on(ctx: Context) -> None:
        def work() -> None:
            with pytest.raises(RequestTimeout):
                ctx.request(B, nothing, 100)
            ended.append(clock.monotonic() - start)

        gevent.spawn(work)

    task = in_background(host.request, A, hand_on, 2.0)
    clock.advance(3)
    with pytest.raises(RequestTimeout):
        task.get(block=False)
    assert ended[0] <= 2 + RESOLUTION


# -- cycles ----------------------------------------------------------------------------------------------------


def cycle_of(host: Host, clock: VirtualClock, *chain: Ref) -> CallCycle:
    """Have each actor of the chain ask the next one; return the error that the last one got."""
    caught: list[CallCycle] = []

    def ask(rest: tuple[Ref, ...]) -> Callable[[Context], None]:
        def handle(ctx: Context) -> None:
            try:
                ctx.reply(ctx.request(rest[0], ask(rest[1:]) if len(rest) > 1 else "closing"))
            except CallCycle as error:
                caught.append(error)
                ctx.reply("caught")

        return handle

    before = clock.monotonic()
    assert host.request(chain[0], ask(chain[1:])) == "caught"
    assert clock.monotonic() == before, "it is told at once"
    return caught[0]


def test_an_actor_cannot_ask_itself(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    error = cycle_of(host, clock, A, A)
    assert error.chain == (A, A)
    assert str(error) == "call cycle: a/1 > a/1"


def test_a_cycle_of_two(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """A deadlock of two actors burned their whole timeout."""
    error = cycle_of(host, clock, A, B, A)
    assert error.chain == (A, B, A)
    assert str(error) == "call cycle: a/1 > a/2 > a/1"
    assert isinstance(error, TheatreError)


def test_a_cycle_via_two_others(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    assert cycle_of(host, clock, A, B, C, A).chain == (A, B, C, A)


def test_a_cycle_names_only_its_own_part(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    assert cycle_of(host, clock, A, B, C, B).chain == (B, C, B)


def test_a_cycle_also_when_the_actors_were_busy(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    host.send(B, lambda ctx: clock.sleep(1))
    clock.settle()
    caught: list[CallCycle] = []

    def back(ctx: Context) -> None:
        try:
            ctx.request(A, "closing")
        except CallCycle as error:
            caught.append(error)
            ctx.reply("caught")

    task = in_background(host.request, A, lambda ctx: ctx.reply(ctx.request(B, back)))
    clock.advance(1)
    assert task.get(block=False) == "caught"
    assert caught[0].chain == (A, B, A)


def test_a_cycle_through_the_host_object(host: Host, recorder: Recorder) -> None:
    def back(ctx: Context) -> None:
        with pytest.raises(CallCycle, match="a/1 > a/2 > a/1"):
            host.request(A, "closing")
        ctx.reply("caught")

    assert host.request(A, lambda ctx: ctx.reply(host.request(B, back))) == "caught"


def test_a_cycle_via_initialize(host: Host, recorder: Recorder) -> None:
    """The asked actor is only coming into being for this very request, and its Initialize asks back."""
    caught: list[CallCycle] = []

    def ask_back(ctx: Context) -> None:
        if ctx.actor_ref == B:
            try:
                ctx.request(A, "closing")
            except CallCycle as error:
                caught.append(error)

    recorder.on_initialize = ask_back
    assert host.request(A, lambda ctx: ctx.reply(ctx.request(B, "x"))) == "x"
    assert caught[0].chain == (A, B, A)


def test_a_cycle_that_nobody_catches_is_the_requesters_error(host: Host, recorder: Recorder) -> None:
    def ask_back(ctx: Context) -> None:
        ctx.request(A, "closing")

    with pytest.raises(RemoteActorError, match="call cycle: a/1 > a/2 > a/1"):
        host.request(A, lambda ctx: ctx.reply(ctx.request(B, ask_back)))


def test_no_cycle_when_the_first_has_been_answered_already(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    """B may ask A while A still works on a message whose request to B has been answered."""
    got: list[Any] = []

    def answer_then_ask(ctx: Context) -> None:
        ctx.reply("early")
        got.append(ctx.request(A, "behind"))

    def ask(ctx: Context) -> None:
        assert ctx.request(B, answer_then_ask) == "early"
        clock.sleep(1)
        ctx.reply("done")

    task = in_background(host.request, A, ask)
    clock.advance(2)
    assert task.get(block=False) == "done"
    assert got == ["behind"]


def test_no_cycle_with_send(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    def send_back(ctx: Context) -> None:
        ctx.send(A, "no cycle")
        ctx.reply("fine")

    assert host.request(A, lambda ctx: ctx.reply(ctx.request(B, send_back))) == "fine"
    clock.settle()
    assert recorder.users(A)[-1] == "no cycle"


def test_two_askers_of_one_actor_are_no_cycle(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    tasks = [in_background(host.request, ref, lambda ctx: ctx.reply(ctx.request(C, "x"))) for ref in (A, B)]
    clock.settle()
    assert [task.get(block=False) for task in tasks] == ["x", "x"]


# -- interrupted callers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "timeout", "throw"])
@pytest.mark.parametrize("warm", [False, True])
def test_interrupting_the_caller_never_interrupts_the_handler(
    host: Host, recorder: Recorder, how: str, warm: bool
) -> None:
    if warm:
        host.request(A, "warm")  # so that the actor and a worker are there to be handed over to
    go = Event()
    steps: list[str] = []

    def slow(ctx: Context) -> None:
        steps.append("begun")
        go.wait()
        steps.append("ended")
        ctx.reply("late")

    def call() -> str:
        if how == "timeout":
            with gevent.Timeout(0.02, False):  # type: ignore[arg-type]
                host.request(A, slow)
            return "timed out"
        try:
            host.request(A, slow)
        except RuntimeError:
            return "thrown"
        return "answered"

    caller = gevent.spawn(call)
    until(lambda: steps)
    if how == "kill":
        caller.kill()
    elif how == "throw":
        caller.kill(RuntimeError("enough"))
    caller.join()
    if how == "kill":
        assert isinstance(caller.value, gevent.GreenletExit)
    else:
        assert caller.value == {"timeout": "timed out", "throw": "thrown"}[how]
    assert steps == ["begun"]
    counts = host.metrics.snapshot()
    assert (counts["requests_abandoned"], counts["requests_pending"]) == (1, 0)
    go.set()
    assert host.request(A, "behind") == "behind"
    assert steps == ["begun", "ended"]
    assert host.metrics.snapshot()["replies_late"] == 1
    assert_balanced(host.metrics)


def test_a_caller_killed_right_after_its_call_gets_no_stray_switch(host: Host, recorder: Recorder) -> None:
    """The late reply must not wake a greenlet that has gone on to wait for something else."""
    woken: list[str] = []
    go = Event()
    own = Event()

    def answer_late(ctx: Context) -> None:
        go.wait()
        ctx.reply("late")

    def call() -> None:
        try:
            host.request(A, answer_late)
        except RuntimeError:
            pass
        own.wait()
        woken.append("by its own event")

    caller = gevent.spawn(call)
    gevent.sleep(0)
    caller.kill(RuntimeError(), block=False)
    gevent.sleep(0.005)
    go.set()
    gevent.sleep(0.005)
    assert woken == []
    own.set()
    caller.join()
    assert woken == ["by its own event"]


def test_an_actor_interrupted_by_its_own_gevent_timeout_goes_on(host: Host, recorder: Recorder) -> None:
    def impatient(ctx: Context) -> None:
        with gevent.Timeout(0.01, False):  # type: ignore[arg-type]
            ctx.request(B, nothing)
        ctx.reply("went on")

    assert host.request(A, impatient) == "went on"
    assert host.metrics.snapshot()["requests_abandoned"] == 1


# -- where one may not call from -------------------------------------------------------------------------------


def test_a_request_from_a_loop_callback_is_refused(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    errors: list[Exception] = []

    def callback() -> None:
        host.send(A, "a send is fine")
        try:
            host.request(A, "x")
        except TheatreError as error:
            errors.append(error)

    clock.call_later(1, callback)
    clock.advance(1)
    assert "would block the hub" in str(errors[0])
    assert recorder.users(A) == ["a send is fine"]


def test_a_host_that_is_not_started_says_so() -> None:
    host = Host()
    host.register_actor("a", Recorder())
    for verb in (lambda: host.send(A, "x"), lambda: host.request(A, "x"), lambda: host.spawn_local(A)):
        with pytest.raises(HostNotRunning, match=r"not started: call start\(\)"):
            verb()


def test_two_hosts_in_one_process_know_nothing_of_each_other(make_host: MakeHost, clock: VirtualClock) -> None:
    one, two = make_host(host_id="one"), make_host(host_id="two")
    one.register_actor("a", lambda: Named("one"))
    two.register_actor("a", lambda: Named("two"))
    assert (one.request(A, "who?"), two.request(A, "who?")) == ("one", "two")

    def across(ctx: Context) -> None:
        if not isinstance(ctx.message, Initialize) and ctx.is_request:
            ctx.reply(two.request(A, "who?"))

    one.register_actor("across", across)
    assert one.request(Ref("across", "1"), "x") == "two"


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def receive(self, ctx: Context) -> None:
        ctx.reply(self.name)
