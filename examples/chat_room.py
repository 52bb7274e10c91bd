"""Fan-out: chat rooms pass every line on to their members. Rooms and members are actors, and need no lock.

Prints:

    members of room/tea: 3
    ann sees: ann has come | ann: anybody in? | bob has come | cleo has come | bob: hello, ann | bob has gone | ann: oh
    bob sees: bob has come | cleo has come | bob: hello, ann | bob has gone
    cleo sees: cleo has come | bob: hello, ann | bob has gone | ann: oh
    members of room/empty: 0
"""

from theatre_gevent import monkey

monkey.patch_all()

from theatre_gevent import Context, Host, Ref


class Room:
    """Knows its members by their refs, on whatever host they are; forgotten when idle for `idle_timeout`."""

    def __init__(self) -> None:
        self.members: list[Ref] = []

    def receive(self, ctx: Context) -> None:
        match ctx.message, ctx.sender:
            case "join", Ref() as member:  # the sender is the actor whose handler made the request
                if member not in self.members:
                    self.members.append(member)
                    self.tell(ctx, f"{member.id} has come")
                ctx.reply(len(self.members))
            case "leave", Ref() as member:
                if member in self.members:
                    self.tell(ctx, f"{member.id} has gone")
                    self.members.remove(member)
                ctx.reply(len(self.members))
            case ("say", text), Ref() as member:
                self.tell(ctx, f"{member.id}: {text}")
                ctx.reply(len(self.members))
            case ("screen of", Ref() as member), _:
                # What one actor sends to another arrives in the order sent, so this comes after all lines.
                ctx.reply(ctx.request(member, "screen"))
            case "count", _:
                ctx.reply(len(self.members))

    def tell(self, ctx: Context, line: str) -> None:
        """Send a line to everybody and wait for nobody; only a member with a full inbox makes the room wait."""
        for member in self.members:
            ctx.send(member, ("line", line))


class Member:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case ("line", str() as line):
                self.lines.append(line)
            case ("to", Ref() as room, body):  # what the person at the keyboard does
                ctx.reply(ctx.request(room, body))
            case "screen":
                ctx.reply(self.lines)


with Host() as host:
    host.register_actor("room", Room)
    host.register_actor("member", Member)
    tea = Ref("room", "tea")
    ann, bob, cleo = (Ref("member", name) for name in ("ann", "bob", "cleo"))

    host.request(ann, ("to", tea, "join"))
    host.request(ann, ("to", tea, ("say", "anybody in?")))
    host.request(bob, ("to", tea, "join"))
    print(f"members of {tea}: {host.request(cleo, ('to', tea, 'join'))}")
    host.request(bob, ("to", tea, ("say", "hello, ann")))
    host.request(bob, ("to", tea, "leave"))
    host.request(ann, ("to", tea, ("say", "oh")))

    for member in (ann, bob, cleo):
        print(f"{member.id} sees: {' | '.join(host.request(tea, ('screen of', member)))}")
    empty = Ref("room", "empty")
    print(f"members of {empty}: {host.request(empty, 'count')}")
