"""Hosts of a cluster under one virtual clock: their network, their database, and what goes wrong with both.

What is simulated is the world around them, and the database (`store`). What the hosts do is decided by the real code
(`host`). Everything that happens is an event at some time; nothing else moves. The same faults and the same seed give
the same story.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

import gevent
from msgspec import Struct

from tests.simulation.host import DURATION, MARGIN, POLL, Process, Rules
from tests.simulation.store import SimulatedStore
from theatre_gevent import Ref
from theatre_gevent.cluster.store import Life
from theatre_gevent.logic.lease import waits_for_dead

NAMES = ("a", "b", "c")
REFS = tuple(Ref("actor", str(number)) for number in range(3))
RATES = {"a": 1.0, "b": 1.004, "c": 0.996}
"""How fast each host's clock runs."""
KINDS = ("no way there", "no way back", "late", "slow", "pause", "kill", "stop", "cut")
"""What can happen to a host: its statements do not arrive; their answers do not; statements, or answers, take up to
4 s, and some statements much longer; it stands still; it is killed, or stops in good order, and is started again; it
can't reach the other hosts."""
LATENCY = (0.0005, 0.01)
TRAFFIC = 0.4
"""Seconds between a host's messages, on average."""
RECOVERY = waits_for_dead(DURATION) + 3 * POLL + 8.0
"""Seconds after the last fault in which everybody must be serving everything again."""


class Fault(Struct, frozen=True):
    """Something that goes wrong: what, with which host, from when on, for how long. Seconds."""

    kind: str
    host: str
    start: float
    seconds: float


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """Three hosts, from their start until some time after the last fault.

    Args:
        faults: What goes wrong.
        seed: Of everything else: latencies, and who sends what.
        rules: How the hosts behave; tests plant bugs in it.
        store: The database; likewise.

    Attributes:
        lived: Seconds that all the hosts together have been simulated for.
        handled: Messages that were handled.
        outcomes: What became of what was sent.
    """

    def __init__(
        self,
        faults: list[Fault],
        seed: int = 0,
        rules: type[Rules] = Rules,
        store: type[SimulatedStore] = SimulatedStore,
    ) -> None:
        self.faults = faults
        self.random = Random(seed)
        self.rules = rules()
        self.store = store()
        self.now = 0.0
        self.stirred = False
        self.violations: list[str] = []
        self.handled = 0
        self.outcomes: Counter[str] = Counter()
        self.epochs: dict[str, int] = {}
        self.hosts: dict[str, Process] = {}
        self.started: list[Process] = []
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._trouble: Counter[tuple[str, str]] = Counter()

    # -- time --------------------------------------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], object]) -> None:
        """Have something happen."""
        heappush(self._events, (time, next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something happen in so many seconds."""
        self.at(self.now + seconds, call)

    def run(self) -> World:
        """Let everything happen; the last of it is that all hosts serve all actors.

        Raises:
            Violation: Something has happened that must not.
        """
        try:
            for name in NAMES:
                self.start(name)
            for fault in self.faults:
                self.at(fault.start, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
            calm = max((fault.start + fault.seconds for fault in self.faults), default=0.0)
            self._until(calm + RECOVERY)
            self.check_recovered()
        finally:
            for process in self.started:
                process.end()
        return self

    def _until(self, end: float) -> None:
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, call = heappop(events)
            call()
            if self.stirred:
                self.stirred = False
                for _ in range(3):  # who was woken may wake others
                    gevent.sleep(0)
            if self.violations:
                raise Violation(f"at {self.now:.3f} s: {self.violations[0]}")
        self.now = end

    @property
    def lived(self) -> float:
        """Seconds that all hosts have lived."""
        return self.now * len(NAMES)

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        process = self.hosts[fault.host]
        self._trouble[fault.kind, fault.host] += 1
        if fault.kind == "pause":
            process.pause()
        elif fault.kind == "kill":
            process.end()
        elif fault.kind == "stop":
            process.stop()
        self.after(fault.seconds, lambda: self._heal(fault))

    def _heal(self, fault: Fault) -> None:
        self._trouble[fault.kind, fault.host] -= 1
        if self._has(fault.kind, fault.host):
            return  # two of the kind overlap
        if fault.kind == "pause":
            self.hosts[fault.host].resume()
        elif fault.kind in ("kill", "stop") and not self._has("kill", fault.host) and not self._has("stop", fault.host):
            self.hosts[fault.host].end()
            self.start(fault.host)

    def _has(self, kind: str, name: str) -> bool:
        return self._trouble[kind, name] > 0

    def start(self, name: str) -> None:
        """Start a process."""
        process = self.hosts[name] = Process(self, name, RATES[name], 1000.0 + len(self.started) * 77)
        self.started.append(process)
        process.start()
        if self._has("pause", name):
            process.pause()

    # -- the network -------------------------------------------------------------------------------------------------

    def latency(self) -> float:
        """Return seconds that something is on its way."""
        return self.random.uniform(*LATENCY)

    def statement(
        self,
        process: Process,
        verb: str,
        args: tuple[Any, ...],
        done: Callable[[Any], object],
        failed: Callable[[], object],
        patience: float,
    ) -> None:
        """Have the database do something; `done` or `failed` is called, once. A late statement is done all the same."""
        over = False
        name = process.name

        def execute() -> None:
            if self._has("no way there", name):
                return
            answer: Any
            try:
                answer = getattr(self.store, verb)(*args)
            except Exception as error:  # HostFenced: that is an answer
                answer = error
            self._check_statement(process, verb, args, answer)
            if not self._has("no way back", name):
                slow = self.random.uniform(0.0, 4.0) if self._has("slow", name) else 0.0
                process.after(slow + self.latency(), lambda: end(done, answer))

        def end(call: Callable[..., object], *answer: Any) -> None:
            nonlocal over
            if not over:
                over = True
                call(*answer)

        late = 0.0
        if self._has("late", name):
            late = self.random.uniform(0.0, 4.0 if self.random.random() < 0.8 else 15.0)
        self.after(late + self.latency(), execute)
        process.after(patience, lambda: end(failed))

    def carry(self, sender: str, receiver: str, verb: str, *args: Any) -> None:
        """Bring something from host to host, or lose it."""
        if not self._has("cut", sender) and not self._has("cut", receiver):
            self.after(self.latency(), lambda: self.hosts[receiver].receive(verb, *args))

    # -- what must hold ----------------------------------------------------------------------------------------------

    def violate(self, text: str) -> None:
        """Note what must not be: some callers swallow exceptions."""
        self.violations.append(text)

    def _check_statement(self, process: Process, verb: str, args: tuple[Any, ...], answer: Any) -> None:
        """Nothing is done in the name of a life that is over, and no life is ended that its host still believes in."""
        if verb in ("claim", "renew") and not isinstance(answer, Exception) and answer is not None:
            if self.store.lives[args[0]].fenced:
                self.violate(f"{verb} by {args[0]}, which is over")
        elif verb == "fence" and answer:
            for other in self.hosts.values():
                if not other.dead and other.life == args[0] and not other.lease.expired(other.now()):
                    self.violate(f"{process.life} has ended {other.life}, whose lease has not ended by its own clock")
        if verb in ("claim", "release", "resign", "fence", "register"):
            for ref in REFS:
                self.check(ref)

    def check(self, ref: Ref) -> None:
        """At most one host has an actor and a lease that it believes in, and that is whose row it is."""
        believers = [
            process
            for process in self.hosts.values()
            if not process.dead and ref in process.actors and not self.rules.expired(process)
        ]
        if len(believers) > 1:
            self.violate(f"{ref} is served by {' and '.join(str(process.life) for process in believers)}")
        for process in believers:
            row = self.store.owned.get(ref)
            if row is None or row.life != process.actors[ref]:
                self.violate(f"{ref} is active at {process.actors[ref]}, and the database says {row}")

    def begun(self, life: Life) -> None:
        """A host has got an epoch."""
        if life.epoch <= self.epochs.get(life.host_id, 0):
            self.violate(f"epoch {life.epoch} of host {life.host_id} comes after {self.epochs[life.host_id]}")
        self.epochs[life.host_id] = life.epoch

    def check_recovered(self) -> None:
        """All hosts serve, and each of them reaches each actor."""
        idle = [f"{process.name} is {process.phase.value}" for process in self.hosts.values() if not process.serving]
        if idle:
            raise Violation(f"{RECOVERY:g} s after the last fault {', '.join(idle)}")
        for process in self.hosts.values():
            process.sends = False
        probes = [process.send(ref, probe=True) for process in self.hosts.values() for ref in REFS]
        self._until(self.now + 5.0)
        bad = [str(probe) for probe in probes if probe.outcome != "handled"]
        if bad:
            raise Violation(f"long after the last fault {', '.join(bad)}")


__all__ = ["DURATION", "KINDS", "MARGIN", "NAMES", "POLL", "REFS", "Fault", "Violation", "World"]
