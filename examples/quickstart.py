"""The smallest program: one actor type, a message and a request.

Prints:

    actor started
    somebody said: hi
    hello back, Ann!
"""

from theatre_gevent import monkey

monkey.patch_all()

from theatre_gevent import Context, Host, Initialize, Ref


class Greeter:
    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case Initialize():
                print("actor started")
            case str() as text:
                print("somebody said:", text)
            case {"name": name}:
                ctx.reply(f"hello back, {name}!")


with Host() as host:  # start() .. stop()
    host.register_actor("greeter", Greeter)
    greeter = Ref("greeter", "1")
    host.send(greeter, "hi")  # fire and forget
    print(host.request(greeter, {"name": "Ann"}))  # blocks this greenlet until the reply, or RequestTimeout
