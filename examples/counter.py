"""Counters with state: each is an actor of its own, and no lock is needed, however many greenlets use it at once.

Prints:

    visits/home: 300
    visits/about: 100
    after a reset: 0
    RemoteActorError: visits/home raised ValueError: can't add 'three'
    still alive: 0
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging

import gevent

from theatre_gevent import Context, Host, Initialize, Ref, RemoteActorError, Shutdown

logging.getLogger("theatre_gevent").setLevel(logging.CRITICAL)  # the mistake below is on purpose


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case Initialize() | Shutdown():
                pass
            case ("add", int() as amount):
                self.value += amount
            case ("add", other):
                raise ValueError(f"can't add {other!r}")
            case "reset":
                self.value = 0
            case "get":
                ctx.reply(self.value)


def visit(host: Host, page: Ref, times: int) -> None:
    for _ in range(times):
        host.send(page, ("add", 1))


with Host() as host:
    host.register_actor("visits", Counter)
    home, about = Ref("visits", "home"), Ref("visits", "about")
    visitors = [gevent.spawn(visit, host, page, 100) for page in (home, home, about, home)]
    gevent.joinall(visitors, raise_error=True)
    for page in (home, about):
        print(f"{page}: {host.request(page, 'get')}")

    host.send(home, "reset")  # messages of one sender to one actor keep their order,
    print("after a reset:", host.request(home, "get"))  # so this one is handled second
    host.send(home, ("add", "three"))  # nobody waits for this one: the error is logged
    try:
        host.request(home, ("add", "three"))
    except RemoteActorError as error:
        print(f"RemoteActorError: {error}")
    print("still alive:", host.request(home, "get"))
