"""Actors that ask each other, a reply from another greenlet, and a cycle of requests that is found at once.

Prints:

    moved 30: ann has 70, bob has 30
    refused: account/ann raised ValueError: account/ann has only 70
    slow answer: 42
    CallCycle: call cycle: echo/a > echo/b > echo/a
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging

import gevent

from theatre_gevent import CallCycle, Context, Host, Ref, RemoteActorError

logging.getLogger("theatre_gevent").setLevel(logging.CRITICAL)  # the errors below are on purpose


class Account:
    def __init__(self) -> None:
        self.balance = 0

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case ("deposit", amount):
                self.balance += amount
                ctx.reply(self.balance)
            case ("withdraw", amount):
                if amount > self.balance:
                    raise ValueError(f"{ctx.actor_ref} has only {self.balance}")
                self.balance -= amount
                ctx.reply(self.balance)


def teller(ctx: Context) -> None:
    """A plain function works as a receiver too, where there is no state to keep."""
    match ctx.message:
        case (source, target, amount):
            # While this handler waits, the teller takes no other message; everybody else goes on.
            left = ctx.request(source, ("withdraw", amount))
            ctx.reply((left, ctx.request(target, ("deposit", amount))))


def oracle(ctx: Context) -> None:
    if ctx.message == "think":  # answers later, and is free for other messages meanwhile
        gevent.spawn_later(0.05, ctx.reply, 42)


def echo(ctx: Context) -> None:
    match ctx.message:
        case [first, *rest]:
            try:
                ctx.reply(ctx.request(first, rest))
            except CallCycle as error:
                ctx.reply(f"CallCycle: {error}")
        case []:
            ctx.reply("done")


with Host() as host:
    host.register_actor("account", Account)
    host.register_actor("teller", teller)
    host.register_actor("oracle", oracle)
    host.register_actor("echo", echo)
    ann, bob = Ref("account", "ann"), Ref("account", "bob")
    host.request(ann, ("deposit", 100))
    left, right = host.request(Ref("teller", "1"), (ann, bob, 30))
    print(f"moved 30: ann has {left}, bob has {right}")
    try:
        host.request(ann, ("withdraw", 1000))
    except RemoteActorError as error:
        print("refused:", error)
    print("slow answer:", host.request(Ref("oracle", "delphi"), "think"))
    a, b = Ref("echo", "a"), Ref("echo", "b")
    print(host.request(a, [b, a]))  # a asks b, which asks a, which waits for b
