"""A host for the chaos runner: `pg_host` with ways through proxies, a wall clock that jumps, and worse messages.

Its arguments are those of `pg_host`, and `routes`, which says for the address of each other host where to connect
instead, and `plant`, the name of a bug (see `plants`).
"""

from theatre_gevent import monkey

monkey.patch_all()

import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from tests.chaos import plants  # noqa: E402
from tests.chaos.pg_host import CLOCK, Actor, Lane, Program  # noqa: E402
from tests.chaos.witness import TIMED  # noqa: E402
from theatre_gevent import Context, Ref, SystemClock, TheatreError  # noqa: E402
from theatre_gevent.cluster import link, membership  # noqa: E402
from theatre_gevent.cluster.sockets import Address, Socket, dial, parse_address  # noqa: E402
from theatre_gevent.core.context import RemoteRequest  # noqa: E402

BURST = 4
"""Messages in a row from one sender to one actor, so that the order has a chance to be wrong."""


class SteppedClock(SystemClock):
    """The machine's clock with a wall time that can be set."""

    offset = 0.0

    def time(self) -> float:
        """Wall time in seconds since the epoch, by a clock that somebody has set."""
        return super().time() + self.offset


class ChaosActor(Actor):
    """Knows two more words."""

    def _handle(self, ctx: Context, word: str, rest: list[Any]) -> str:
        if word == "raise":
            raise RuntimeError("as told")
        if word == "hang":
            gevent.sleep(rest[0])
            if not (isinstance(ctx, RemoteRequest) and ctx.is_request):
                # Nobody elsewhere waits for what it does now, so nothing of it is refused when the lease has ended
                # meanwhile, until the loop has had its turn and the host has noticed.
                gevent.sleep(0)
            word = "work"
        return super()._handle(ctx, word, rest)


class ChaosLane(Lane):
    """A sender: a few messages in a row to one actor, some of them requests, then to another."""

    def __init__(self, program: "ChaosProgram", name: str, refs: list[str], pause: float, timeout: float) -> None:
        self._moods = program.moods
        self._choices = program.choices
        self._random = random.Random(name)
        super().__init__(program, name, refs, pause, timeout)

    def choice(self, ref: Ref) -> str:
        """Return the host that the ring has last chosen for an actor, "" if it was not asked yet."""
        return self._choices.get(ref, "")

    def body(self, number: int) -> tuple[Any, ...]:
        """Return the message with this number: one in ten is a bad one while that is the mood."""
        for word, (end, *rest) in self._moods.items():
            if CLOCK.monotonic() < end and self._random.random() < 0.1:
                return word, self.name, number, *rest
        return super().body(number)

    def _run(self) -> None:
        numbers = itertools.count(1)
        while not self.halted:
            ref = self._random.choice(self._refs)
            for _ in range(BURST):
                self._send(ref, next(numbers))
            self._request(ref, next(numbers))
            gevent.sleep(self._pause)


class HangLane(ChaosLane):
    """Has a few receivers hang, at once and whatever the other senders of its host wait for."""

    def __init__(self, program: "ChaosProgram", name: str, refs: list[str], timeout: float, hang: float) -> None:
        self._hang = hang
        super().__init__(program, name, refs, 0.0, timeout)

    def body(self, number: int) -> tuple[Any, ...]:
        """Return the message with this number."""
        return "hang", self.name, number, self._hang

    def _run(self) -> None:
        for number, ref in enumerate(self._random.sample(self._refs, BURST), 1):
            if not self.halted:
                (self._send if number < BURST else self._request)(ref, number)


class TimedLane(Lane):
    """Makes schedules of single messages."""

    def _run(self) -> None:
        for number in itertools.count(1):
            if self.halted:
                return
            ref = self._refs[number % len(self._refs)]
            try:
                self._program.host.send_after(ref, self.body(number), 0.5 + number % 4 * 0.5)
            except TheatreError as error:
                self.failures[type(error).__name__] += 1
            else:
                self.sent += 1
                self.answered += 1  # by the database
                self._program.record("scheduled", ref=str(ref), sender=self.name, n=number)
            gevent.sleep(self._pause)


class ChaosProgram(Program):
    """The host and what it is told to do."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.moods: dict[str, tuple[float, ...]] = {}
        self.choices: dict[Ref, str] = {}
        self._stepped = SteppedClock()
        routes = {parse_address(one): parse_address(other) for one, other in given["routes"].items()}

        def detour(address: Address, timeout: float) -> Socket:
            return dial(routes[address], timeout)

        setattr(link, "dial", detour)  # noqa: B010 - it is not the module's own
        self._alone_until = 0.0
        self._hanging: list[HangLane] = []
        self._may_be_alone()
        if given["plant"]:
            plants.PLANTS[given["plant"]].install()
        super().__init__(given)

    def _may_be_alone(self) -> None:
        # The ring only says who asks for an actor first; that no two get it is the database's doing.
        agreed = membership.LiveRing.owner

        def owner(ring: membership.LiveRing, ref: Ref) -> str | None:
            chosen = self.host.host_id if CLOCK.monotonic() < self._alone_until else agreed(ring, ref)
            self.choices[ref] = chosen or self.host.host_id
            return chosen

        setattr(membership.LiveRing, "owner", owner)  # noqa: B010 - mypy knows it as a method

    def make_clock(self) -> SystemClock:
        """Return the host's clock."""
        return self._stepped

    def make_actor(self) -> Actor:
        """Return a new receiver."""
        return ChaosActor(self)

    # -- orders ------------------------------------------------------------------------------------------------------

    def work(self, refs: list[str], pause: float, timeout: float) -> None:
        """Begin to send: two senders, and one that makes schedules."""
        life = f"{self.host.host_id}-{os.getpid()}"
        self.lanes += [ChaosLane(self, f"{life}-{n}", refs, pause, timeout) for n in range(2)]
        self.lanes.append(TimedLane(self, f"{TIMED}{life}", refs, 10 * pause, timeout))

    def halt(self) -> None:
        """Send no more; returns when all calls have."""
        for lane in self._hanging:
            lane.halted = True
        super().halt()
        gevent.joinall([lane.greenlet for lane in self._hanging], raise_error=True)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self._stepped.offset += seconds

    def ring(self, seconds: float) -> None:
        """Take this host for the ring's choice of every actor, for a while."""
        self._alone_until = CLOCK.monotonic() + seconds
        self._members_changed()
        gevent.spawn_later(seconds, self._members_changed)

    def _members_changed(self) -> None:
        # As the membership does whenever a ring is replaced: old ways are asked for what may still come back.
        router: Any = self.host._dispatcher.router
        if router is not None:
            router._members_changed()

    def burst(self, seconds: float) -> None:
        """Let nothing else run on the hub for so long."""
        end = CLOCK.boottime() + seconds
        while CLOCK.boottime() < end:
            pass

    def mood(self, word: str, seconds: float) -> None:
        """Have some messages be bad ones for a while."""
        self.moods[word] = (CLOCK.monotonic() + seconds,)

    def hang(self, refs: list[str], seconds: float, timeout: float, hang: float) -> None:
        """Have a few receivers hang now, each for `hang`, and those of some messages for a while."""
        self.moods["hang"] = (CLOCK.monotonic() + seconds, hang)
        name = f"{self.host.host_id}-{os.getpid()}-hang-{len(self._hanging)}"
        self._hanging.append(HangLane(self, name, refs, timeout, hang))


if __name__ == "__main__":
    ChaosProgram(json.loads(sys.argv[1])).main()
