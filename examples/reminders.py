"""Delayed and recurring messages: a reminder that can be cancelled, an actor with a timer of its own, cron.

Prints:

    kettle/1 whistles
    too late to cancel the kettle: False
    cancelled the oven in time: True
    watch/1 ticks 1
    watch/1 ticks 2
    watch/1 ticks 3
    report/daily is due at 09:00 in Berlin, which is 08:00 UTC
    pending: ['0 9 * * MON-FRI']
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging

from theatre_gevent import Context, Host, Initialize, Ref, Shutdown
from theatre_gevent.testing import VirtualClock

logging.getLogger("theatre_gevent").setLevel(logging.WARNING)


def kettle(ctx: Context) -> None:
    if ctx.message == "whistle":
        print(f"{ctx.actor_ref} whistles")


class Watch:
    """Sends itself a message every second, three times. The timer goes when it goes: it would bring the actor back."""

    def __init__(self) -> None:
        self.ticks = 0
        self.timer = ""

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case Initialize():
                self.timer = ctx.send_after(ctx.actor_ref, "tick", 1)
            case Shutdown():
                ctx.cancel_schedule(self.timer)
            case "tick":
                self.ticks += 1
                print(f"{ctx.actor_ref} ticks {self.ticks}")
                if self.ticks < 3:
                    self.timer = ctx.send_after(ctx.actor_ref, "tick", 1)


def report(ctx: Context) -> None:
    if ctx.message == "write":
        assert ctx.due is not None
        print(f"{ctx.actor_ref} is due at 09:00 in Berlin, which is {ctx.due:%H:%M} UTC")


# A clock that is moved by hand, so that a day passes at once. Leave it out for real time.
clock = VirtualClock(epoch=1_767_571_200)  # Monday, 5 January 2026, midnight UTC

with Host(clock=clock, cleanup_interval=3600) as host:
    for name, receiver in (("kettle", kettle), ("watch", Watch), ("report", report)):
        host.register_actor(name, receiver)

    whistle = host.send_after(Ref("kettle", "1"), "whistle", 300)
    oven = host.send_after(Ref("kettle", "oven"), "whistle", 3600)
    clock.advance(600)
    print("too late to cancel the kettle:", host.cancel_schedule(whistle))
    print("cancelled the oven in time:", host.cancel_schedule(oven))

    host.spawn_local(Ref("watch", "1"))
    clock.advance(10)

    host.send_cron(Ref("report", "daily"), "write", "0 9 * * MON-FRI", tz="Europe/Berlin")
    clock.advance(86_400)
    print("pending:", [schedule.expression for schedule in host.schedules()])
