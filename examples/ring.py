"""100 000 actors in a ring: a token goes round once, and every actor comes alive when the one before sends it on.

An idle actor costs about a kilobyte and no greenlet. `python loadtest.py` measures how fast this is.

Prints:

    the token has been with 100000 actors
    actors alive: 100000
    messages handled: 100001
"""

from theatre_gevent import monkey

monkey.patch_all()

from gevent.event import AsyncResult

from theatre_gevent import Context, Host, Ref

ACTORS = 100_000

home: "AsyncResult[int]" = AsyncResult()


class Link:
    def __init__(self) -> None:
        self.seen = False

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case int() as passed:
                if self.seen:  # it is back where it began
                    home.set(passed)
                    return
                self.seen = True
                following = (int(ctx.actor_ref.id) + 1) % ACTORS
                ctx.send(Ref("link", str(following)), passed + 1)


with Host(idle_timeout=600) as host:  # nobody leaves before all have come
    host.register_actor("link", Link)
    host.send(Ref("link", "0"), 0)
    print("the token has been with", home.get(timeout=300), "actors")
    counts = host.metrics.snapshot()
    print("actors alive:", counts["actors_active"])
    print("messages handled:", counts["messages_received"])
