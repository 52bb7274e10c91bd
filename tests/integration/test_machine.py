"""Invariants 1 to 4, whatever happens in whatever order: a Hypothesis state machine under the virtual clock.

Four senders outside send and ask without overtaking themselves, actors send and ask each other, stop themselves,
fail, block, answer late, take their time to begin and to end; meanwhile time passes, idle actors leave, and the host
freezes and goes on. What the actors saw is compared with what was sent and with what the host counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import gevent
from gevent.event import Event
from gevent.queue import Queue
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support import assert_balanced, run_in_steps
from theatre_gevent import (
    CallCycle,
    ClaimLost,
    Context,
    DeadLetter,
    Host,
    HostDraining,
    HostFrozen,
    InboxFull,
    Initialize,
    Ref,
    RemoteActorError,
    RequestTimeout,
    Shutdown,
    StopActor,
)
from theatre_gevent.testing import VirtualClock

REFS = [Ref("a", str(number)) for number in range(3)]
SENDERS = range(4)
KINDS = ["plain", "plain", "stop", "fail", "block", "late", "slow", "relay", "ask"]

refs = st.sampled_from(REFS)
kinds = st.sampled_from(KINDS)


class Message(NamedTuple):
    sender: object  # the number of an outside sender, or the ref and activation of an actor
    number: int  # counts up per sender
    kind: str
    target: Ref | None = None


class Actor:
    def __init__(self, machine: HostMachine) -> None:
        self.machine = machine
        self.numbers = 0

    def receive(self, ctx: Context) -> None:
        machine, ref = self.machine, ctx.actor_ref
        if ref in machine.running:
            machine.violations.append(f"two handlers of {ref} at once")
        machine.running.add(ref)
        try:
            self.handle(ctx, ref)
        except gevent.GreenletExit:
            machine.alive.pop(ref, None)  # stopped by force, without Shutdown
            raise
        finally:
            machine.running.discard(ref)

    def handle(self, ctx: Context, ref: Ref) -> None:
        machine, message = self.machine, ctx.message
        if isinstance(message, Initialize):
            if ref in machine.alive:
                machine.violations.append(f"{ref} begins while its last activation lives")
            if ref in machine.slow:
                machine.clock.sleep(0.7)
            if ref in machine.failing:
                raise ZeroDivisionError
            machine.alive[ref] = self
        elif isinstance(message, Shutdown):
            if machine.alive.get(ref) is not self:
                machine.violations.append(f"Shutdown of {ref}, which does not live")
            if ref in machine.slow:
                machine.clock.sleep(0.7)
            machine.alive.pop(ref, None)
        else:
            if machine.alive.get(ref) is not self:
                machine.violations.append(f"{ref} handles {message} without being alive")
            machine.processed.append((ref, message))
            self.act(ctx, ref, message)

    def act(self, ctx: Context, ref: Ref, message: Message) -> None:
        match message.kind:
            case "stop":
                raise StopActor
            case "fail":
                raise ValueError(message.number)
            case "block":
                self.machine.gates[ref].wait()
            case "slow":
                self.machine.clock.sleep(0.3)
            case "late":
                self.machine.kept.append(ctx)
                return
            case "relay" | "ask":
                assert message.target is not None
                self.numbers += 1
                onward = Message((ref, id(self)), self.numbers, "plain")
                self.machine.keep_alive.append(self)
                try:
                    if message.kind == "relay":
                        ctx.send(message.target, onward)
                        self.machine.delivered.append(onward)
                    elif ctx.request(message.target, onward) != onward:
                        self.machine.violations.append(f"{onward} got another's reply")
                except (InboxFull, HostFrozen, HostDraining, CallCycle, RequestTimeout, RemoteActorError, ClaimLost):
                    pass
        ctx.reply(message)


class HostMachine(RuleBasedStateMachine):
    @initialize(inbox=st.integers(1, 4), room=st.integers(2, 12))
    def start(self, inbox: int, room: int) -> None:
        self.clock = VirtualClock()
        self.violations: list[str] = []
        self.running: set[Ref] = set()
        self.alive: dict[Ref, Actor] = {}
        self.failing: set[Ref] = set()
        self.slow: set[Ref] = set()
        self.gates = {ref: Event() for ref in REFS}
        self.kept: list[Context] = []
        self.keep_alive: list[Actor] = []  # so that no id is used twice
        self.processed: list[tuple[Ref, Message]] = []
        self.dead: list[DeadLetter] = []
        self.delivered: list[Message] = []
        self.numbers: Counter[int] = Counter()
        self.host = Host(
            clock=self.clock,
            idle_timeout=3,
            cleanup_interval=0.5,
            request_timeout=2,
            drain_timeout=5,
            freeze_grace_period=0.5,
            actor_inbox_size=inbox,
            host_inbox_size=room,
            dead_letter_handler=self.dead.append,
        ).start()
        self.host.register_actor("a", lambda: Actor(self))
        self.commands: list[Queue[Any]] = [Queue() for _ in SENDERS]
        self.senders = [gevent.spawn(self.work, commands) for commands in self.commands]

    def work(self, commands: Queue[Any]) -> None:
        """What an outside sender does: one thing after the other."""
        while (command := commands.get()) is not None:
            verb, ref, message = command
            try:
                if verb == "send":
                    self.host.send(ref, message)
                    self.delivered.append(message)
                else:
                    answer = self.host.request(ref, message)
                    self.delivered.append(message)
                    if answer != message:
                        self.violations.append(f"{message} got {answer}")
            except RemoteActorError as error:
                if error.ref != ref:
                    self.violations.append(f"{message} for {ref} got the error of {error.ref}")
                if error.type_name == "ValueError" and error.message != str(message.number):
                    self.violations.append(f"{message} got another's error: {error}")
            except (InboxFull, HostFrozen, HostDraining, RequestTimeout):
                pass

    @rule(
        burst=st.lists(
            st.tuples(st.sampled_from(["send", "send", "request"]), st.sampled_from(SENDERS), refs, kinds, refs),
            min_size=1,
            max_size=12,
        )
    )
    def send(self, burst: list[tuple[str, int, Ref, str, Ref]]) -> None:
        for verb, sender, ref, kind, onward in burst:
            self.numbers[sender] += 1
            self.commands[sender].put((verb, ref, Message(sender, self.numbers[sender], kind, onward)))

    @rule(verb=st.sampled_from(["send", "request"]), ref=refs, kinds=st.lists(kinds, min_size=4, max_size=4))
    def crowd(self, verb: str, ref: Ref, kinds: list[str]) -> None:
        """All senders at one actor."""
        for sender, kind in enumerate(kinds):
            self.send([(verb, sender, ref, kind, REFS[sender % 3])])

    @rule(ref=refs)
    def open_gate(self, ref: Ref) -> None:
        self.gates[ref].set()
        self.clock.settle()
        self.gates[ref].clear()

    @rule()
    def answer_late(self) -> None:
        kept, self.kept = self.kept, []
        for ctx in kept:
            try:
                ctx.reply(ctx.message)
                ctx.reply("a second time")
            except ClaimLost:
                pass

    @rule(ref=refs)
    def spawn(self, ref: Ref) -> None:
        def spawn() -> None:
            try:
                self.host.spawn_local(ref)
            except (RemoteActorError, RequestTimeout, HostFrozen, HostDraining):
                pass

        gevent.spawn(spawn)

    @rule(ref=refs)
    def toggle_failing(self, ref: Ref) -> None:
        self.failing ^= {ref}

    @rule(ref=refs)
    def toggle_slow(self, ref: Ref) -> None:
        self.slow ^= {ref}

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 0.7, 1.0, 3.2, 8.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def run(self) -> None:
        self.clock.settle()

    @rule()
    def kill_a_sender(self) -> None:
        self.senders[0].kill(block=True)
        self.commands[0] = Queue()
        self.senders[0] = gevent.spawn(self.work, self.commands[0])

    @rule()
    def freeze(self) -> None:
        gevent.spawn(self.host.freeze)
        self.clock.settle()

    @rule()
    def unfreeze(self) -> None:
        self.host.unfreeze()

    @invariant()
    def nothing_is_violated(self) -> None:
        if not hasattr(self, "host"):
            return
        assert self.violations == []
        assert_balanced(self.host.metrics)
        counts = self.host.metrics.snapshot()
        assert counts["messages_received"] == len(self.processed)
        assert counts["messages_dead_lettered"] == len(self.dead)
        seen = [message for _, message in self.processed]
        fates = Counter([*seen, *(letter.message for letter in self.dead)])
        assert max(fates.values(), default=1) == 1, "no message twice"
        last: dict[tuple[object, Ref], int] = {}
        for ref, message in self.processed:
            assert last.get((message.sender, ref), 0) < message.number, "order is kept per sender and receiver"
            last[message.sender, ref] = message.number
        if self.host.state == "frozen":
            assert counts["messages_queued"] == 0

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        if self.host.state == "frozen":
            self.host.unfreeze()
        for gate in self.gates.values():
            gate.set()
        for _ in range(60):
            self.answer_late()
            self.clock.advance(1)
        for commands in self.commands:
            commands.put(None)
        run_in_steps(self.clock, self.host.stop)
        gevent.joinall(self.senders, timeout=5)
        assert all(sender.ready() for sender in self.senders), "a caller hangs"
        self.nothing_is_violated()
        counts = self.host.metrics.snapshot()
        for name in ("messages_queued", "actors_active", "requests_pending", "senders_waiting"):
            assert counts[name] == 0, name
        fates = {message for _, message in self.processed} | {letter.message for letter in self.dead}
        assert set(self.delivered) <= fates, "nothing that was accepted is lost"
        assert self.alive == {}, "Shutdown comes last, to every activation"


TestHost = HostMachine.TestCase
TestHost.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
