"""Faults of all kinds, one after the other and at the same time, in an order that a number decides."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.chaos.pg_cluster import LEASE, PgCluster, boottime, refs
from tests.proxies import DatabaseProxy
from tests.support import until

pytestmark = pytest.mark.faults

OPTIONS: dict[str, Any] = {"idle_timeout": 0.1, "cleanup_interval": 0.05}


class Mixture:
    """Does bad things to three hosts, each with a way of its own to Postgres."""

    def __init__(self, cluster: PgCluster, proxies: dict[str, DatabaseProxy], seed: int) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self.random = random.Random(seed)
        self.done: list[str] = []

    def start(self, name: str) -> None:
        """Start a host and have it send to all actors."""
        host = self.cluster.launch(name, dsn=self.proxies[name].dsn, options=OPTIONS).wait_started()
        self.cluster.hosts[name] = host
        for lane, ids in ((name, refs(8)), (f"{name}-slow", refs(6, "s"))):
            host.call("start", lane=lane, refs=ids, timeout=1.5, pause=0.01 if lane == name else 0.06)

    def step(self) -> None:
        """Do one bad thing, and undo it."""
        name = self.random.choice(sorted(self.cluster.hosts))
        what = self.random.choice(["pause", "blink", "kill", "stop", "terminate", "cut", "swallow", "mute"])
        seconds = self.random.uniform(0.2, 1.0) if what == "blink" else self.random.uniform(0.5, 2 * LEASE)
        self.done.append(f"{what} {name} {seconds:.2f}")
        since = boottime()
        if what in ("pause", "blink"):
            self.cluster.pause(name)
            gevent.sleep(seconds)
            self.cluster.resume(name)
        elif what == "kill":
            self.cluster.kill(name)
            gevent.sleep(seconds / 2)
            self.start(name)
        elif what == "stop":
            self.cluster.halt([name])
            self.cluster.stop(name)
            self.start(name)
        elif what == "terminate":
            self.cluster.terminate("application_name = %s", name)
        else:
            getattr(self.proxies[name], what)()
            gevent.sleep(seconds)
            self.proxies[name].heal()
        self.cluster.note_fault(since, boottime())


@pytest.mark.parametrize("seed", [1])  # each takes 20 seconds; 2 to 7 have been tried
def test_a_mixture(tmp_path: Path, dsn: str, seed: int) -> None:
    proxies = {name: DatabaseProxy(dsn) for name in "abc"}
    try:
        with PgCluster(tmp_path, dsn) as cluster:
            mixture = Mixture(cluster, proxies, seed)
            for name in "abc":
                mixture.start(name)
            cluster.until_progress(by=10)
            for _ in range(6):
                mixture.step()
                gevent.sleep(mixture.random.choice([0.0, 0.3, 1.0]))
            print(*mixture.done, sep=", ")
            until(lambda: all(host.state() == "active" for host in cluster.hosts.values()), 20)
            cluster.until_progress(by=15, timeout=30)
            cluster.at_least = 300
    finally:
        for proxy in proxies.values():
            proxy.__exit__(None, None, None)
