"""One host's part: what it returns, and how it fails."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import pytest

from theatre_gevent import Context, Host
from theatre_gevent.loadtest import run as run_module
from theatre_gevent.loadtest.options import LoadOptions, parse
from theatre_gevent.loadtest.result import Warmth
from theatre_gevent.loadtest.run import HostSpec, Watcher, run_host
from theatre_gevent.loadtest.stop import Stop
from theatre_gevent.loadtest.workload import ACTOR_TYPE, Tally, make_refs


@pytest.fixture
def options() -> LoadOptions:
    """A test of 50 actors and 0.2 s."""
    return parse(["-actors", "50", "-workers", "3", "-duration", "200ms", "-warm"])


def test_a_part_is_plain_data_and_tells_how_it_goes(options: LoadOptions) -> None:
    heard: list[object] = []

    def warmed(warmth: Warmth) -> None:
        heard.append(warmth["actors_alive"])

    part = run_host(HostSpec(0, options), Stop(), Watcher(heard.append, warmed, lambda: heard.append("stopping")))
    assert heard == [50, "stopping"]
    assert (part["host"], part["error"], part["exit_code"]) == ("host-1", None, 0)
    assert part["activated"] == b"\1" * 50
    assert part["sends"] + part["requests"] + 50 == part["metrics"]["messages_received"]
    assert part["metrics"]["messages_queued"] == part["metrics_stopped"]["actors_active"] == 0
    assert part["warm"] is not None
    assert part["warm"]["activations"] == part["inits"] == part["shutdowns"] == 50
    assert part["duration"] >= 0.2


def test_a_stop_asked_before_the_start_ends_at_once(options: LoadOptions) -> None:
    stop = Stop()
    stop.ask(130)
    part = run_host(HostSpec(0, replace(options, duration=40.0)), stop, Watcher(print, print, lambda: None))
    assert part["duration"] < 30
    assert (part["exit_code"], part["sends"], part["inits"]) == (130, 0, 0)


def test_workers_of_a_host_that_does_not_run_fail_the_part(options: LoadOptions) -> None:
    stop, tally = Stop(), Tally(50)
    run_module._work(Host(), make_refs(50), tally, HostSpec(0, options), perf_counter() + 20, stop)
    assert stop.exit_code == 1
    assert stop.error is not None
    assert stop.error.startswith("a worker failed: ")
    assert tally.working == 0


def test_workers_that_do_not_end_are_killed_and_fail_the_part(
    options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_END_GRACE", 0.2)

    def silent(ctx: Context) -> None:
        """Never answers."""

    stop, tally = Stop(), Tally(50)
    with Host(request_timeout=40) as host:
        host.register_actor(ACTOR_TYPE, silent)
        spec = HostSpec(0, replace(options, sendpct=0))
        run_module._work(host, make_refs(50), tally, spec, perf_counter() + 0.1, stop)
    assert (stop.error, stop.exit_code) == ("3 workers did not end within 0.2 s of the deadline", 1)
    assert tally.working == 0


def test_a_lost_message_fails_the_part() -> None:
    metrics = {
        "messages_sent": 10,
        "messages_received": 7,
        "messages_dead_lettered": 1,
        "messages_queued": 1,
    }
    stop = Stop()
    run_module._check_balance({**metrics, "messages_sent": 9}, stop)
    assert not stop.wanted
    run_module._check_balance(metrics, stop)
    assert stop.error == "the counters do not balance: 10 sent, 7 received, 1 dead, 1 queued"
    assert stop.exit_code == 1


def test_workers_have_random_numbers_of_their_own(options: LoadOptions) -> None:
    draws = {
        HostSpec(host, replace(options, seed=seed)).rng(worker).random()
        for host in range(2)
        for seed in range(2)
        for worker in range(2)
    }
    assert len(draws) == 8
    assert HostSpec(1, options).rng(3).random() == HostSpec(1, options).rng(3).random()
