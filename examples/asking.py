"""Actors that ask each other, a reply from another greenlet, and a cycle of requests that is found at once.

While a handler waits for a reply, its actor takes no other message; everybody else goes on.

Prints:

    echo/a asked echo/b: done
    slow answer: 42
    CallCycle: call cycle: echo/a > echo/b > echo/a
"""

from theatre_gevent import monkey

monkey.patch_all()

import gevent

from theatre_gevent import CallCycle, Context, Host, Ref


def oracle(ctx: Context) -> None:
    if ctx.message == "think":  # answers later, and is free for other messages meanwhile
        gevent.spawn_later(0.05, ctx.reply, 42)


def echo(ctx: Context) -> None:
    """Asks the first actor of a list to ask the next ones. A plain function will do where there is no state to keep."""
    match ctx.message:
        case [first, *rest]:
            try:
                ctx.reply(ctx.request(first, rest))
            except CallCycle as error:
                ctx.reply(f"CallCycle: {error}")
        case []:
            ctx.reply("done")


with Host() as host:
    host.register_actor("oracle", oracle)
    host.register_actor("echo", echo)
    a, b = Ref("echo", "a"), Ref("echo", "b")
    print(f"{a} asked {b}: {host.request(a, [b])}")
    print("slow answer:", host.request(Ref("oracle", "delphi"), "think"))
    print(host.request(a, [b, a]))  # a asks b, which asks a, which waits for b
