"""Memory limit and garbage collection of the load test."""

from __future__ import annotations

import gc
import weakref

from theatre_gevent.loadtest.monitor import Monitor, RareGc
from theatre_gevent.loadtest.result import Progress
from theatre_gevent.loadtest.stop import Stop
from theatre_gevent.loadtest.workload import Tally


class Node:
    """Something that can be part of a cycle."""

    def __init__(self) -> None:
        self.me = self


def test_collections_are_off_inside_and_as_before_outside() -> None:
    assert gc.isenabled()
    callbacks = list(gc.callbacks)
    with RareGc() as rare:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert rare.collections == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


def test_a_collection_frees_cycles_and_freezes_what_lives() -> None:
    with RareGc() as rare:
        lost = weakref.ref(Node())
        kept = Node()
        assert lost() is not None
        rare.look()
        assert lost() is not None, "it is not time yet"
        rare.collect()
        assert lost() is None
        assert rare.collections == 1
        assert not any(thing is kept for thing in gc.get_objects())


def test_the_memory_limit_stops_the_run() -> None:
    stop = Stop()
    samples: list[Progress] = []
    with RareGc() as rare:
        monitor = Monitor(Tally(1), 1 << 20, stop, lambda: 0, rare, samples.append)
        monitor.close()
    assert (stop.wanted, stop.exit_code) == (True, 1)
    assert stop.error is not None
    assert stop.error.startswith("memory limit exceeded: ")
    assert stop.error.endswith("-memlimit is 1 MiB")
    assert monitor.peak_rss >= monitor.rss > 1 << 20


def test_no_limit_is_no_limit() -> None:
    stop = Stop()
    with RareGc() as rare:
        Monitor(Tally(1), 0, stop, lambda: 0, rare, lambda _: None).close()
    assert not stop.wanted


def test_the_first_reason_to_stop_counts() -> None:
    stop = Stop()
    stop.ask(130)
    stop.ask(1, "too late")
    assert (stop.exit_code, stop.error) == (130, None)
