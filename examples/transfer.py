"""A bank transfer between two accounts, when one of them does not answer in time: nothing is lost, nothing comes twice.

A timeout says that the answer is missing, not that nothing was done. So every entry has the transfer's id as its
key: an account books it once, and takes it back, or never books it, once it was told to cancel it.

In memory all this ends with the process. A real bank writes entries and outcomes into a database before it replies
(examples/webapp does), and repeats "cancel" until it is answered, since a message may be lost with its host.

Prints:

    t-1: done
    t-1 asked for again: done
    t-2: refused: account/ann raised ValueError: has only 70
    t-3: cancelled: no answer from account/cleo
    ann 70, bob 30, cleo 0
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging

from gevent.event import Event

from theatre_gevent import Context, Host, Ref, RemoteActorError, TheatreError

logging.getLogger("theatre_gevent").setLevel(logging.CRITICAL)  # the refusal below is on purpose

PATIENCE = 2.0
"""Seconds for an account to answer: two of them are less than `request_timeout`, for who asked waits for both."""


class Account:
    def __init__(self) -> None:
        self.entries: dict[str, int] = {}

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case ("book", key, amount):
                balance = sum(self.entries.values())
                if key not in self.entries:
                    if balance + amount < 0:
                        raise ValueError(f"has only {balance}")  # who asked gets it as RemoteActorError
                    self.entries[key] = amount
                ctx.reply("booked")
            case ("cancel", key):
                self.entries[key] = 0  # also when it is not there yet: then it can't be booked any more
                ctx.reply("cancelled")  # nobody hears it where it was only sent
            case "balance":
                ctx.reply(sum(self.entries.values()))
            case Event() as answered:
                answered.wait()  # a slow database, say; meanwhile this account takes no other message


class Transfer:
    """One actor for each transfer, whose id it has: whoever asks again gets the same answer, and no second transfer."""

    def __init__(self) -> None:
        self.outcome = ""

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case (Ref() as source, Ref() as target, int() as amount):
                self.outcome = self.outcome or self.move(ctx, source, target, amount)
                ctx.reply(self.outcome)

    def move(self, ctx: Context, source: Ref, target: Ref, amount: int) -> str:
        key = ctx.actor_ref.id
        asked: list[Ref] = []
        try:
            for account, change in ((source, -amount), (target, amount)):
                asked.append(account)
                ctx.request(account, ("book", key, change), timeout=PATIENCE)
        except TheatreError as error:  # also a host that is lost, in a cluster: booked or not, it is taken back
            for account in asked:
                # It arrives after the request that it cancels: what one actor sends to another keeps its order.
                ctx.send(account, ("cancel", key))
            if isinstance(error, RemoteActorError):
                return f"refused: {error}"
            return f"cancelled: no answer from {asked[-1]}"
        return "done"


with Host() as host:
    host.register_actor("account", Account)
    host.register_actor("transfer", Transfer)
    ann, bob, cleo = (Ref("account", name) for name in ("ann", "bob", "cleo"))
    host.request(ann, ("book", "opening", 100))

    first = Ref("transfer", "t-1")
    print("t-1:", host.request(first, (ann, bob, 30)))
    print("t-1 asked for again:", host.request(first, (ann, bob, 30)))
    print("t-2:", host.request(Ref("transfer", "t-2"), (ann, bob, 500)))

    answers = Event()
    host.send(cleo, answers)  # from now on cleo is busy
    print("t-3:", host.request(Ref("transfer", "t-3"), (ann, cleo, 20)))
    answers.set()  # now she gets the booking, much too late, and then that it is cancelled
    print(", ".join(f"{ref.id} {host.request(ref, 'balance')}" for ref in (ann, bob, cleo)))
