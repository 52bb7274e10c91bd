"""A host of a cluster in Postgres as a program of its own, told what to do in lines of JSON: a victim for faults.

    python -m tests.chaos.pg_host '{"host_id": "b", "witness": "/a/file", "options": {"dsn": "...", "listen": "..."}}'

It writes a line with its address, or with the error if it could not start. Then every line of its standard input is an
order with an `id`, and is answered by a line with this id, when it is done: orders do not wait for each other. SIGTERM
stops it in good order.
"""

from theatre_gevent import monkey

monkey.patch_all()

import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402
from greenlet import GreenletExit  # noqa: E402

from tests.chaos.witness import Witness  # noqa: E402
from theatre_gevent import (  # noqa: E402
    ClaimLost,
    Context,
    DeadLetter,
    Host,
    HostFrozen,
    Initialize,
    Ref,
    Shutdown,
    SystemClock,
    TheatreError,
)
from theatre_gevent.logs import configure  # noqa: E402

TYPE = "w"

CLOCK = SystemClock()
NUMBERS = itertools.count(1)


class Actor:
    """Writes down what it gets. A message is a tuple: a word, the sender, its number, and what the word needs."""

    def __init__(self, program: "Program") -> None:
        self._program = program
        self._epoch = program.epoch()
        self._act = f"{os.getpid()}-{next(NUMBERS)}"

    def receive(self, ctx: Context) -> None:
        """Handle a message."""
        program, body = self._program, ctx.message
        common: dict[str, Any] = {"epoch": self._epoch, "ref": str(ctx.actor_ref), "act": self._act}
        if isinstance(body, Initialize):
            program.record("init", note=body.reason.name, left=program.left(), **common)
            return
        if isinstance(body, Shutdown):
            program.record("shutdown", left=program.left(), **common)
            if program.shutdown_time:
                gevent.sleep(program.shutdown_time)
            program.record("over", **common)
            return
        word, sender, number, *rest = body
        common.update(sender=sender, n=number)
        program.record("begin", left=program.left(), **common)
        note = ""
        try:
            note = self._handle(ctx, word, rest)
        except (ClaimLost, HostFrozen):
            note = "fenced"
        except GreenletExit:
            note = "killed"
            raise
        except BaseException as error:
            note = type(error).__name__
            raise
        finally:
            program.record("end", note=note, **common)

    def _handle(self, ctx: Context, word: str, rest: list[Any]) -> str:
        reply = [self._act, str(ctx.actor_ref), ctx.message[2]]
        if word == "work":
            ctx.reply(reply)
        elif word == "sleep":
            gevent.sleep(rest[0])
            ctx.reply(reply)
        elif word == "nap":  # the same, and what can it do afterwards?
            gevent.sleep(rest[0])
            return self._outlive(ctx, rest[1], reply)
        elif word == "burn":  # likewise, without letting anybody else go on
            end = CLOCK.boottime() + rest[0]
            while CLOCK.boottime() < end:
                pass
            return self._outlive(ctx, rest[1], reply)
        elif word in ("swallow", "survive"):  # its kill, for so long
            end = CLOCK.boottime() + rest[0]
            while CLOCK.boottime() < end:
                try:
                    gevent.sleep(0.05)
                except GreenletExit:
                    self._program.kills += 1
            if word == "survive":
                return self._outlive(ctx, rest[1], reply)
            ctx.reply(reply)
        return ""

    def _outlive(self, ctx: Context, target: str, reply: list[Any]) -> str:
        """Try everything that reaches somebody else; tell `fenced` if nothing did."""
        refused = 0
        for verb, act in (
            ("send", lambda: ctx.send(Ref(TYPE, target), ("work", f"{self._act}!", 1))),
            ("request", lambda: ctx.request(Ref(TYPE, target), ("work", f"{self._act}!", 2), 1.0)),
            ("reply", lambda: ctx.reply(reply)),
        ):
            try:
                act()
            except (ClaimLost, HostFrozen):
                refused += 1
            except TheatreError as error:
                self._program.notes.append(f"{verb}: {type(error).__name__}")
            else:
                self._program.notes.append(f"{verb}: done")
        return "fenced" if refused == 3 else ""


class Lane:
    """One sender: a message after the other to the actors of a list, every third one a request."""

    def __init__(self, program: "Program", name: str, refs: list[str], pause: float, timeout: float) -> None:
        self._program = program
        self.name = name
        self._refs = [Ref(TYPE, ref) for ref in refs]
        self._pause = pause
        self._timeout = timeout
        self.halted = False
        self.answered = 0
        self.sent = 0
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0
        self.greenlet: Any = gevent.spawn(self._run)

    def _run(self) -> None:
        """Body of its greenlet."""
        for number in itertools.count(1):
            if self.halted:
                return
            ref = self._refs[number % len(self._refs)]
            if number % 3:
                self._send(ref, number)
            else:
                self._request(ref, number)
            gevent.sleep(self._pause)

    def body(self, number: int) -> tuple[Any, ...]:
        """Return the message with this number."""
        return "work", self.name, number

    def choice(self, ref: Ref) -> str:
        """Return the host that the ring has last chosen for an actor, "" if that is not known."""
        return ""

    def _send(self, ref: Ref, number: int) -> None:
        record, common = self._program.record, {"ref": str(ref), "sender": self.name, "n": number}
        try:
            self._program.host.send(ref, self.body(number))
        except TheatreError as error:
            self.failures[f"send {type(error).__name__}"] += 1
            record("refused", note=type(error).__name__, **common)
        else:
            self.sent += 1
            record("sent", note=self.choice(ref), **common)

    def _request(self, ref: Ref, number: int) -> None:
        record, common = self._program.record, {"ref": str(ref), "sender": self.name, "n": number}
        record("asked", **common)
        began = CLOCK.boottime()
        try:
            act, answerer, answered = self._program.host.request(ref, self.body(number), self._timeout)
        except TheatreError as error:
            self.failures[f"request {type(error).__name__}"] += 1
            record("failed", note=f"{type(error).__name__}: {error}", **common)
        else:
            self.answered += 1
            # What was answered, not what was asked: the judge compares them.
            record("replied", note=act, ref=answerer, sender=self.name, n=answered)
        self.slowest = max(self.slowest, CLOCK.boottime() - began)


class Program:
    """The host and what it is told to do."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._witness = Witness(given["witness"], given["host_id"])
        self.record = self._witness.record
        self.clock = self.make_clock()
        self.host = Host(
            host_id=given["host_id"],
            clock=self.clock,
            dead_letter_handler=self._dead,
            on_state=lambda state: self.record("state", note=state, epoch=self.epoch()),
            **given["options"],
        )
        self.host.register_actor(TYPE, lambda: self.make_actor())
        self.shutdown_time: float = given.get("shutdown_time", 0.0)
        self._linger: float = given.get("linger", 0.0)
        self.lanes: list[Lane] = []
        self.notes: list[str] = []
        self.kills = 0
        self._tick = 0.0
        self._ended = gevent.event.Event()

    def make_clock(self) -> SystemClock:
        """Return the host's clock."""
        return SystemClock()

    def make_actor(self) -> Actor:
        """Return a new receiver."""
        return Actor(self)

    def epoch(self) -> int:
        """Return which life of the host this is."""
        cluster = self.host._cluster
        return 0 if cluster is None else cluster.epoch

    def left(self) -> float:
        """Return how many seconds the lease has left."""
        return min(1e9, self.host._dispatcher.lease.lease_until - self.host._dispatcher.monotonic())

    def _dead(self, letter: DeadLetter) -> None:
        if isinstance(letter.message, tuple):
            _, sender, number, *_ = letter.message
            self.record("dead", ref=str(letter.ref), sender=sender, n=number, note=letter.reason)

    # -- life --------------------------------------------------------------------------------------------------------

    def main(self) -> None:
        """Start, obey, stop."""
        configure(level="WARNING")
        try:
            self.host.start()
        except TheatreError as error:
            write({"error": type(error).__name__, "text": str(error)})
            sys.exit(1)
        gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(self._end))
        write({"address": self.host.address, "epoch": self.epoch()})
        gevent.spawn(self._watch_hub)
        reader = gevent.spawn(self._obey)
        self._ended.wait()
        reader.kill()

    def _end(self) -> None:
        self.halt()
        self.host.stop()
        self.record("stopped")
        gevent.spawn_later(self._linger, self._ended.set)

    def _watch_hub(self) -> None:
        before = CLOCK.monotonic()
        while True:
            gevent.sleep(0.02)
            now = CLOCK.monotonic()
            self._tick, before = max(self._tick, now - before), now

    def _obey(self) -> None:
        stdin = FileObject(sys.stdin.fileno(), "rb", close=False)
        while line := stdin.readline():
            gevent.spawn(self._carry_out, json.loads(line))
        self._end()

    def _carry_out(self, order: dict[str, Any]) -> None:
        identity, do = order.pop("id"), order.pop("do")
        answer: dict[str, Any]
        try:
            answer = {"done": getattr(self, do)(**order)}
        except TheatreError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        write({"id": identity, **answer})

    # -- orders ------------------------------------------------------------------------------------------------------

    def start(self, lane: str, refs: list[str], pause: float = 0.005, timeout: float = 5.0) -> None:
        """Begin to send as `lane`."""
        self.lanes.append(Lane(self, f"{lane}@{os.getpid()}", refs, pause, timeout))

    def halt(self) -> None:
        """Send no more; returns when all calls have."""
        for lane in self.lanes:
            lane.halted = True
        gevent.joinall([lane.greenlet for lane in self.lanes], raise_error=True)

    def request(self, ref: str, body: list[Any], timeout: float = 5.0) -> Any:
        """Make one request."""
        return self.host.request(Ref(TYPE, ref), tuple(body), timeout)

    def send(self, ref: str, body: list[Any]) -> None:
        """Send one message."""
        self.host.send(Ref(TYPE, ref), tuple(body))

    def spawn(self, ref: str) -> None:
        """Activate an actor here."""
        self.host.spawn_local(Ref(TYPE, ref))

    def flood(self, refs: list[str], sender: str, timeout: float = 20.0) -> dict[str, int]:
        """Ask all actors at once; returns how many answered, and the errors of the others."""
        outcomes: Counter[str] = Counter()

        def ask(number: int, ref: str) -> None:
            common = {"ref": f"{TYPE}/{ref}", "sender": f"{sender}@{os.getpid()}", "n": number}
            try:
                act, answerer, answered = self.host.request(Ref(TYPE, ref), ("work", common["sender"], number), timeout)
            except TheatreError as error:
                outcomes[type(error).__name__] += 1
                self.record("failed", note=f"{type(error).__name__}: {error}", **common)
            else:
                outcomes["answered"] += 1
                self.record("replied", note=act, **{**common, "ref": answerer, "n": answered})

        def offer(number: int, ref: str) -> Any:
            self.record("asked", ref=str(Ref(TYPE, ref)), sender=f"{sender}@{os.getpid()}", n=number)
            return gevent.spawn(ask, number, ref)

        gevent.joinall([offer(number, ref) for number, ref in enumerate(refs, 1)], raise_error=True)
        return dict(outcomes)

    def owner(self, ref: str) -> str:
        """Return whom the ring gives an actor to."""
        return self.host.ring_owner(Ref(TYPE, ref))

    def stop(self) -> dict[str, Any]:
        """Stop in good order, then report."""
        self._end()
        return self.report()

    def report(self) -> dict[str, Any]:
        """Return how things are."""
        tick, self._tick = self._tick, 0.0
        return {
            "state": self.host.state,
            "epoch": self.epoch(),
            "left": self.left(),
            "metrics": self.host.metrics.snapshot(),
            "notes": self.notes,
            "kills": self.kills,
            "tick": tick,
            "lanes": {
                lane.name: {
                    "answered": lane.answered,
                    "sent": lane.sent,
                    "failures": dict(lane.failures),
                    "slowest": lane.slowest,
                }
                for lane in self.lanes
            },
        }


def write(answer: dict[str, Any]) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Program(json.loads(sys.argv[1])).main()
