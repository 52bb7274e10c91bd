"""One run: a private PostgreSQL, hosts as processes, proxies on every way, a plan of faults, and the judge."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.lock import RLock

from tests.chaos.excuses import Fault, Lives
from tests.chaos.judge import Judge, Violation
from tests.chaos.pg_cluster import Failed, PgCluster, boottime, refs
from tests.chaos.plan import LEASE, Step, make_plan
from tests.chaos.plants import PLANTS
from tests.chaos.witness import Record
from tests.postgres import Databases, execute
from tests.proxies import DatabaseProxy, Proxy
from tests.support import base_port, in_background, until
from theatre_gevent.embedded import EmbeddedPostgres

BEFORE, AFTER = 5.0, 2.0
"""Seconds before and after a fault in which a message may have been sent that was on its way during the fault: it waits
for a claim, a connection or room at most `request_timeout`."""
RECOVERY = 60.0
"""Seconds that hosts may take, on a busy machine, until all is well after the last fault."""
POLL = 0.5
OPTIONS: dict[str, Any] = {
    "lease_duration": LEASE,
    "poll_interval": POLL,
    "safety_margin": 0.8,
    "freeze_grace_period": 0.3,
    "request_timeout": 3.0,
    "placement_ttl": 2.0,
    "idle_timeout": 0.15,
    "cleanup_interval": 0.05,
    "schedule_recovery_interval": 1.0,
}
RECOVERY_PLANTED = 10.0
"""The same with a planted bug, which may well make it impossible."""
TRAFFIC: dict[str, Any] = {"refs": refs(24), "timeout": 3.0}
"""The actors, and how long an asker waits."""
EVENTS = 2000
"""Messages that have to be handled for each minute. Four runs at a time on two cores handle 5 000 to 20 000 each."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run.

    Attributes:
        seed: Decides the plan.
        minutes: How long faults happen.
        hosts: How many, 3 to 5; 0: the seed says.
        faults: Which kinds.
        keep: Where witness file and logs are left, None: nowhere, unless there are violations.
        plant: The name of a planted bug, "" for none.
    """

    seed: int
    minutes: float
    hosts: int = 0
    faults: tuple[str, ...]
    keep: str | None = None
    plant: str = ""

    def names(self) -> list[str]:
        """Return the names of the hosts."""
        return list("abcde"[: self.hosts or random.Random(-self.seed).choice((3, 3, 4, 5))])


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a run.

    Attributes:
        events: Messages that were handled.
        records: Lines of the witness.
        sent: Plain messages that were sent.
        outside: Those of them that no fault could have cost: what is promised about these has no exception.
        lost: Messages that a fault has cost.
        late: Messages that a fault has had overtaken by later ones.
        faults: How many of each kind.
        violations: What must not be.
        seconds: How long all of it took.
        folder: Where the witness file and the logs are, "" if they were not kept.
    """

    seed: int
    events: int = 0
    records: int = 0
    sent: int = 0
    outside: int = 0
    lost: int = 0
    late: int = 0
    faults: dict[str, int] = {}
    violations: list[Violation] = []
    seconds: float = 0.0
    folder: str = ""

    def line(self) -> str:
        """Return all of it in a line."""
        faults = ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items()))
        return (
            f"seed {self.seed}: {self.events} events, {sum(self.faults.values())} faults ({faults}), "
            f"{self.sent} messages sent, {self.outside} of them with no fault on their way, "
            f"{self.lost} lost to faults, {self.late} late, "
            f"{len(self.violations)} violations, {self.seconds:.0f} s"
        )


class ChaosCluster(PgCluster):
    """Judges by what the faults excuse."""

    def judge(self) -> Judge:
        """Return the judge of all that is written so far."""
        records, fenced = self.records(), self.fenced()
        faults = [*self.faults, *lost_leases(records, fenced)]
        # With the witness file it is all that the judge goes by.
        known = {"fenced": [[*life, at] for life, at in fenced.items()], "faults": faults, "killed": self.killed}
        (self.folder / "excuses.json").write_bytes(msgspec.json.encode(known))
        return Judge(records, fenced, faults, self.killed)


def lost_leases(records: Sequence[Record], fenced: Lives) -> list[Fault]:
    """Return when messages may have been lost since a host lost its lease.

    It is cut off from the others then, whatever was the cause; and a busy one may cut its old connections when it is in
    its next life already. Who stops in good order loses nothing, unless it has lost its lease before.
    """
    stopped = {record.pid for record in records if record.what == "stopped"}
    states = [record for record in records if record.what == "state"]
    ended = {(r.host, r.epoch) for r in records if r.pid in stopped and r.what in ("state", "init")}
    rejoining = {(r.host, r.epoch) for r in states if r.note == "rejoining"}
    active = [r for r in states if r.note == "active"]
    faults = []
    for (host, epoch), at in fenced.items():
        if (host, epoch) not in ended - rejoining:
            back = min((r.t for r in active if r.host == host and r.epoch > epoch), default=0.0)
            faults.append(Fault(at - LEASE - BEFORE, max(at, back) + AFTER, (host,)))
    return faults


class Run:
    """Carries out the plan.

    Args:
        settings: What is to be run.
        say: Prints a line.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.names = settings.names()
        self.plan = make_plan(settings.seed, settings.minutes * 60, self.names, settings.faults)
        self._say = say
        self._done: Counter[str] = Counter()
        self._recovery = RECOVERY_PLANTED if settings.plant else RECOVERY
        self._locks = {name: RLock() for name in [*self.names, "postgres"]}

    def run(self) -> Outcome:
        """Do everything; returns what came of it."""
        outcome = Outcome(seed=self.settings.seed)
        began = boottime()
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{self.settings.seed}-"))
        if self.settings.keep is not None:
            folder.rmdir()
            folder = Path(self.settings.keep, f"seed-{self.settings.seed}")
            shutil.rmtree(folder, ignore_errors=True)
        with EmbeddedPostgres() as server, ExitStack() as stack:
            self._server = server
            dsn = Databases(server.dsn).create()
            self._cluster = cluster = ChaosCluster(folder, dsn)
            if self.settings.plant and PLANTS[self.settings.plant].sql:
                execute(dsn, PLANTS[self.settings.plant].sql)
            stack.callback(cluster.abandon)
            self._databases = {name: stack.enter_context(DatabaseProxy(dsn)) for name in self.names}
            first = base_port(range(len(self.names)))
            self._addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate(self.names, first)}
            self._links: dict[tuple[str, str], Proxy] = {}
            for one in self.names:
                for other in self.names:
                    if one != other:
                        host, _, port = self._addresses[other].partition(":")
                        self._links[one, other] = stack.enter_context(Proxy(host, int(port)))
            troubles = self._live()
            self._report(cluster.judge(), troubles, outcome)
        outcome.seconds = boottime() - began
        if outcome.violations or self.settings.keep is not None:
            outcome.folder = str(folder)
        else:
            shutil.rmtree(folder)
        return outcome

    def _report(self, judge: Judge, troubles: list[str], outcome: Outcome) -> None:
        judge.limit_excuses()
        states = judge.last_states()
        outcome.violations = [*judge.violations, *(Violation("recovery", each, states) for each in troubles)]
        outcome.events, outcome.records = len(judge.of("begin")), len(judge.records)
        outcome.sent, outcome.outside = judge.sent, judge.outside
        outcome.lost, outcome.late = len(judge.lost), len(judge.late)
        outcome.faults = dict(self._done)
        at_least = max(50, int(EVENTS * self.settings.minutes))
        if outcome.events < at_least:
            text = f"only {outcome.events} messages were handled, {at_least} are the least: that proves nothing"
            outcome.violations.append(Violation("events", text, states))

    # -- from the start to the end -----------------------------------------------------------------------------------

    def _live(self) -> list[str]:
        """Start, carry out the plan, come to an end. Returns what did not come to an end as it should."""
        for task in [in_background(self._start, name) for name in self.names]:
            task.get(timeout=RECOVERY)
        self._cluster.until_progress(by=5, timeout=RECOVERY)
        unused = [f"{one} to {other}" for (one, other), link in self._links.items() if not link.connections]
        assert not unused, f"these do not go through their proxies: {unused}"
        began = boottime()
        running = []
        for step in self.plan:
            gevent.sleep(max(0.0, began + step.at - boottime()))
            self._say(f"[{boottime() - began:6.2f}] {str(step)[7:]}")
            running.append((step, in_background(self._carry_out, step)))
        troubles = []
        for step, task in running:
            try:
                task.get(timeout=2 * self._recovery)
            except (Exception, gevent.Timeout) as error:
                troubles.append(f"{step}: {type(error).__name__}: {error}")
        for what, end in (
            ("hosts do not find each other again", self._acquainted),
            ("some senders get no replies", lambda: self._cluster.until_progress(by=3, timeout=self._recovery)),
            ("some hosts do not halt", self._cluster.halt),
            ("some schedules are left", self._schedules_done),
            ("some hosts do not stop", self._stop_all),
        ):
            try:
                end()
            except (Exception, gevent.Timeout) as error:
                troubles.append(f"{what}: {type(error).__name__}: {error}")
        return troubles

    def _acquainted(self) -> None:
        def connected() -> bool:
            gevent.sleep(0.1)
            reports = [host.call("report") for host in self._cluster.hosts.values()]
            return all(r["metrics"]["peers_up"] == len(reports) - 1 and r["state"] == "active" for r in reports)

        until(connected, self._recovery)

    def _schedules_done(self) -> None:
        def none() -> bool:
            gevent.sleep(0.1)
            return not execute(self._cluster.dsn, "SELECT 1 FROM schedules LIMIT 1")

        until(none, self._recovery)

    def _stop_all(self) -> None:
        for task in [in_background(self._cluster.stop, name) for name in list(self._cluster.hosts)]:
            task.get(timeout=self._recovery)

    def _start(self, name: str) -> None:
        """Start a host, as often as it takes while PostgreSQL is out of reach, and have it send."""
        routes = {self._addresses[other]: f"127.0.0.1:{self._links[name, other].port}" for other in self._others(name)}
        plant = self.settings.plant
        end = boottime() + RECOVERY
        while True:
            host = self._cluster.launch(
                name,
                program="tests.chaos.chaos_host",
                dsn=self._databases[name].dsn,
                routes=routes,
                plant=plant,
                options={**OPTIONS, "listen": self._addresses[name]},
                environment={"THEATRE_PURE": "1"} if plant else {},
            )
            try:
                host.wait_started()
                break
            except Failed:
                host.kill()
                if boottime() > end:
                    raise
                gevent.sleep(0.2)
        self._cluster.hosts[name] = host
        host.call("work", pause=0.03, **TRAFFIC)

    def _others(self, name: str) -> Iterator[str]:
        return (other for other in self.names if other != name)

    # -- faults ------------------------------------------------------------------------------------------------------

    def _carry_out(self, step: Step) -> None:
        kind, _, what = step.fault.partition("-")
        if kind == "link":
            with self._locks.setdefault(step.host + step.other, RLock()):
                self._link(step, self._links[step.host, step.other], what)
        elif step.fault == "pg-restart":
            with self._locks["postgres"]:
                self._server.restart()
        elif kind == "hang":
            with self._locks[step.host]:
                self._cluster[step.host].call("hang", seconds=step.seconds, hang=step.hang, **TRAFFIC)
        elif kind == "pg":
            with self._locks.setdefault("pg-" + step.host, RLock()):
                self._way(self._databases[step.host], what, step.seconds)
        else:
            with self._locks[step.host]:
                getattr(self, "_" + kind)(step.host, step.seconds)
        self._done[step.fault] += 1

    def _way(self, proxy: Proxy, what: str, seconds: float) -> None:
        if what == "drop":
            proxy.drop()
        elif what == "slow":
            proxy.delay = seconds / 10
            gevent.sleep(seconds)
            proxy.delay = 0.0
        else:
            (proxy.cut if what == "cut" else proxy.swallow)()
            gevent.sleep(seconds)
            proxy.heal()

    def _link(self, step: Step, proxy: Proxy, what: str) -> None:
        since = boottime()
        self._way(proxy, what, step.seconds)
        # A slow one as well: a host that stops does not wait for what takes longer than its goodbye.
        self._cluster.faults.append(Fault(since - BEFORE, boottime() + AFTER, (step.host, step.other)))

    def _kill(self, name: str, seconds: float) -> None:
        host = self._cluster.hosts.pop(name)
        now = self._cluster.killed[host.pid] = boottime()
        host.kill()
        # The others send to it until they learn that its lease has ended; the judge knows when that was.
        self._cluster.faults.append(Fault(now - BEFORE, now + AFTER, (name,)))
        gevent.sleep(seconds)
        self._start(name)

    def _pause(self, name: str, seconds: float) -> None:
        self._cluster.pause(name)
        gevent.sleep(seconds)
        self._cluster.resume(name)

    def _restart(self, name: str, seconds: float) -> None:
        self._cluster.halt([name])
        self._cluster.stop(name)
        self._start(name)

    def _clock(self, name: str, seconds: float) -> None:
        self._cluster[name].call("step", seconds=seconds)
        gevent.sleep(LEASE)
        with suppress(KeyError):
            self._cluster[name].call("step", seconds=-seconds)

    def _burst(self, name: str, seconds: float) -> None:
        self._cluster[name].call("burst", seconds=seconds)

    def _ring(self, name: str, seconds: float) -> None:
        self._cluster[name].call("ring", seconds=seconds)

    def _raise(self, name: str, seconds: float) -> None:
        self._cluster[name].call("mood", word="raise", seconds=seconds)
