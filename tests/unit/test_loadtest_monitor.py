"""Memory limit and garbage collection of the load test."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

from theatre_gevent.loadtest.monitor import MemoryWatch, Monitor, RareGc
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
    watch = MemoryWatch([os.getpid()], 1 << 20, stop)
    watch.close()
    assert (stop.wanted, stop.exit_code) == (True, 1)
    assert stop.error is not None
    assert stop.error.startswith("memory limit exceeded: ")
    assert stop.error.endswith("-memlimit is 1 MiB")
    assert watch.peak_rss >= watch.rss > 1 << 20


def test_no_limit_is_no_limit() -> None:
    stop = Stop()
    MemoryWatch([os.getpid()], 0, stop).close()
    assert not stop.wanted


def test_the_memory_of_all_processes_counts_at_the_same_time() -> None:
    code = "import sys; block = b'x' * (64 << 20); print(len(block), flush=True); sys.stdin.read()"
    alone = MemoryWatch([os.getpid()], 0, Stop())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == 64 << 20
        both = MemoryWatch([os.getpid(), other.pid], 0, Stop())
        assert both.rss > alone.rss + (32 << 20)
        other.communicate()
    both.close()
    assert both.rss < both.peak_rss - (32 << 20), "what has ended holds nothing any more"
    alone.close()


def test_progress_is_that_of_all_hosts_in_the_process() -> None:
    samples: list[Progress] = []
    tallies = [Tally(2), Tally(2)]
    with RareGc() as rare:
        monitor = Monitor(tallies, lambda: 7, rare, samples.append)
        started = monitor.start_clock()
        for tally in tallies:
            tally.sends += 5
            tally.inits += 1
            tally.working += 3
        monitor._report(started + 2, started)
        monitor.close()
    (sample,) = samples
    assert (sample["operations"], sample["elapsed"], sample["interval"]) == (10, 2, 2)
    assert (sample["actors_active"], sample["load_greenlets"], sample["host_greenlets"]) == (2, 6, 7)
    assert monitor.peak_rss >= sample["rss"] > 1 << 20


def test_who_must_end_hears_of_it_once() -> None:
    stop, heard = Stop(), []
    stop.on_ask(lambda: heard.append("before"))
    stop.ask(130)
    stop.ask(1, "worse")
    assert heard == ["before"]
    stop.on_ask(lambda: heard.append("after"))
    assert heard == ["before", "after"]


def test_the_first_reason_to_stop_counts() -> None:
    stop = Stop()
    stop.ask(130)
    stop.ask(143)
    assert (stop.exit_code, stop.error) == (130, None)
    stop.ask(1, "a wish does not hide what goes wrong meanwhile")
    stop.ask(2, "too late")
    assert (stop.exit_code, stop.error) == (1, "a wish does not hide what goes wrong meanwhile")
