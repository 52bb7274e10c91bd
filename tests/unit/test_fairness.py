"""No actor starves another, nor the hub."""

from __future__ import annotations

import gevent
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import until
from theatre_gevent import Context, Host, Initialize, Ref, Shutdown, SystemClock


def endless(host: Host) -> list[int]:
    """An actor type whose actors send to themselves for as long as the one cell of the returned list is 0."""
    stop = [0]

    @host.actor("endless")
    def receive(ctx: Context) -> None:
        if not isinstance(ctx.message, (Initialize, Shutdown)) and not stop[0]:
            ctx.send(ctx.actor_ref, "again")

    return stop


def test_an_endless_self_send_starves_neither_actors_nor_timers(real_host: Host) -> None:
    host = real_host
    stop = endless(host)
    host.register_actor("calm", lambda ctx: ctx.reply(ctx.message))
    timer = Event()
    SystemClock().call_later(0.01, timer.set)
    try:
        for number in range(3):
            host.send(Ref("endless", str(number)), "go")
        for number in range(20):
            assert host.request(Ref("calm", str(number)), number, timeout=30) == number
        assert timer.wait(30)
        received = host.metrics.snapshot()["messages_received"]
        until(lambda: host.metrics.snapshot()["messages_received"] > received + 1_000)
    finally:
        stop[0] = 1


def test_a_long_queue_is_handled_in_turns(make_host: MakeHost) -> None:
    """A full inbox of one actor is not emptied in one go: what is ready beside it comes in between."""
    host = make_host(actor_inbox_size=2_000)
    order: list[str] = []
    host.register_actor("a", lambda ctx: order.append(ctx.actor_ref.id))
    busy, calm = Ref("a", "busy"), Ref("a", "calm")
    for number in range(2_000):
        host.send(busy, number)
    host.send(calm, "x")
    until(lambda: len(order) == 2_003)
    # Initialize and the message of the calm one, long before the last of the busy one
    assert max(index for index, name in enumerate(order) if name == "calm") < 1_000


def test_two_that_send_to_each_other_for_ever_leave_the_hub_its_turn(real_host: Host) -> None:
    host = real_host
    stop = False
    count = 0

    @host.actor("ball")
    def play(ctx: Context) -> None:
        nonlocal count
        if not isinstance(ctx.message, (Initialize, Shutdown)) and not stop:
            count += 1
            ctx.send(Ref("ball", "1" if ctx.actor_ref.id == "2" else "2"), "ball")

    ran = 0

    def other() -> None:
        nonlocal ran
        for _ in range(5):
            gevent.sleep(0)
            ran += 1

    host.send(Ref("ball", "1"), "ball")
    task = gevent.spawn(other)
    try:
        until(lambda: count > 2_000 and ran == 5, timeout=30)
    finally:
        stop = True
    task.join()


def test_a_handler_that_blocks_keeps_nobody_else_waiting(real_host: Host) -> None:
    host = real_host
    go = Event()
    host.register_actor("slow", lambda ctx: ctx.message == "wait" and go.wait())
    host.register_actor("calm", lambda ctx: ctx.reply(ctx.message))
    for number in range(300):  # more than there are workers kept in reserve
        host.send(Ref("slow", str(number)), "wait")
    try:
        assert host.request(Ref("calm", "1"), "free") == "free"
        until(lambda: host.metrics.snapshot()["messages_queued"] == 0)
    finally:
        go.set()
    until(lambda: host.metrics.snapshot()["messages_received"] == 301)
    assert host.request(Ref("calm", "1"), "after") == "after"


def test_requests_in_a_tight_loop_leave_the_hub_its_turn(real_host: Host) -> None:
    """A direct hand-over does not pass through the hub; a greenlet that only asks must yield all the same."""
    host = real_host
    host.register_actor("calm", lambda ctx: ctx.reply(None))
    ref = Ref("calm", "1")
    timer = Event()
    SystemClock().call_later(0.05, timer.set)
    asked = 0
    while not timer.is_set():
        host.request(ref, "x")
        asked += 1
        assert asked < 3_000_000, "the timer never came"
    assert asked > 10


def test_the_inbox_of_one_actor_leaves_the_hub_its_turn(make_host: MakeHost) -> None:
    host = make_host(clock=SystemClock(), actor_inbox_size=200)
    handled: list[int] = []
    seen: list[int] = []

    @host.actor("busy")
    def receive(ctx: Context) -> None:
        if isinstance(ctx.message, int):
            end = SystemClock().monotonic() + 0.001
            while SystemClock().monotonic() < end:
                pass
            handled.append(ctx.message)

    for number in range(200):
        host.send(Ref("busy", "1"), number)
    SystemClock().call_later(0.0, lambda: seen.append(len(handled)))
    SystemClock().call_later(0.01, lambda: seen.append(len(handled)))
    until(lambda: len(handled) == 200)
    assert handled == list(range(200))
    assert len(seen) == 2
    assert seen[1] < 200
