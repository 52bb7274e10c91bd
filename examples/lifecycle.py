"""How an actor comes and goes: Initialize, StopActor, Shutdown, idle removal, and what becomes of lost messages.

Prints:

    session/ann begins (new)
    session/ann ends with ['hello']
    session/ann begins (new)
    session/ann ends with ['again']
    actors alive: 0
    dead letter for broken/1: the actor could not be activated: RuntimeError: no database
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging

import gevent

from theatre_gevent import Context, DeadLetter, Host, Initialize, Ref, Shutdown, StopActor

logging.getLogger("theatre_gevent").setLevel(logging.CRITICAL)  # the failure below is on purpose


class Session:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case Initialize(reason):
                print(f"{ctx.actor_ref} begins ({reason.value})")
            case Shutdown():
                print(f"{ctx.actor_ref} ends with {self.heard}")
            case "log out":
                raise StopActor
            case str() as text:
                self.heard.append(text)


def broken(ctx: Context) -> None:
    raise RuntimeError("no database")  # already at Initialize: such an actor never becomes alive


def tell(letter: DeadLetter) -> None:
    print(f"dead letter for {letter.ref}: {letter.reason}")


def wait_for_ends(host: Host, number: int) -> None:
    with gevent.Timeout(5):
        while host.metrics.snapshot()["activations_ended"] < number:
            gevent.sleep(0.01)


with Host(idle_timeout=0.1, cleanup_interval=0.05, dead_letter_handler=tell) as host:
    host.register_actor("session", Session)
    host.register_actor("broken", broken)
    ann = Ref("session", "ann")

    host.spawn_local(ann)
    host.send(ann, "hello")
    host.send(ann, "log out")  # it stops itself
    wait_for_ends(host, 1)

    host.send(ann, "again")  # the next message makes a new one, with a state of its own
    wait_for_ends(host, 2)  # nobody talks to it, so it leaves after idle_timeout
    print("actors alive:", host.metrics.snapshot()["actors_active"])

    host.send(Ref("broken", "1"), "are you there?")
