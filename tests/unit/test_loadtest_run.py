"""The steps of hosts in one process: what they return, and how they fail."""

from __future__ import annotations

import socket
from dataclasses import replace
from time import perf_counter

import pytest

from theatre_gevent import Context
from theatre_gevent.loadtest import part as part_module
from theatre_gevent.loadtest.options import LoadOptions, parse
from theatre_gevent.loadtest.part import HostSpec, Part, imbalance
from theatre_gevent.loadtest.run import Watcher, run
from theatre_gevent.loadtest.stop import Stop
from theatre_gevent.loadtest.workload import ACTOR_TYPE, make_refs


@pytest.fixture
def options() -> LoadOptions:
    """A test of 50 actors and 0.2 s."""
    return parse(["-hosts", "1", "-actors", "50", "-workers", "3", "-duration", "200ms", "-warm"])


def deaf() -> Watcher:
    return Watcher(lambda samples, rss: None, lambda warmth: None, lambda: None)


def test_a_part_is_plain_data_and_tells_how_it_goes(options: LoadOptions) -> None:
    heard: list[object] = []
    stop = Stop()
    watcher = Watcher(
        lambda samples, rss: heard.append(samples),
        lambda warmth: heard.append(warmth["actors_alive"]),
        lambda: heard.append("stopping"),
    )
    outcome = run(options, stop, watcher)
    assert heard == [50, "stopping"]
    (part,) = outcome.parts
    assert (part["host"], stop.error, stop.exit_code) == ("host-1", None, 0)
    assert part["activated"] == b"\1" * 50
    assert part["sends"] + part["requests"] + 50 == part["metrics"]["messages_received"]
    assert part["metrics"]["messages_queued"] == part["metrics_stopped"]["actors_active"] == 0
    assert part["warm"] is not None
    assert part["warm"]["activations"] == part["inits"] == part["shutdowns"] == 50
    assert part["duration"] >= 0.2
    assert min(outcome.peak_rss, part["process"]["peak_rss"]) > 1 << 20


def test_a_stop_asked_before_the_start_ends_at_once(options: LoadOptions) -> None:
    stop = Stop()
    stop.ask(130)
    (part,) = run(replace(options, duration=40.0), stop, deaf()).parts
    assert part["duration"] < 30
    assert (stop.exit_code, part["sends"], part["inits"]) == (130, 0, 0)


def test_workers_of_a_host_that_does_not_run_fail_the_part(options: LoadOptions) -> None:
    stop = Stop()
    part = Part(HostSpec(0, replace(options, duration=20.0)), make_refs(50), stop)
    part.work(perf_counter())
    assert stop.exit_code == 1
    assert stop.error is not None
    assert stop.error.startswith("host-1: a worker failed: ")
    assert part.tally.working == 0


def test_workers_that_do_not_end_are_killed_and_fail_the_part(
    options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "END_GRACE", 0.2)
    monkeypatch.setattr(part_module, "ACTOR_TYPE", "another")

    def silent(ctx: Context) -> None:
        """Never answers."""

    stop = Stop()
    part = Part(HostSpec(0, replace(options, sendpct=0, duration=0.1)), make_refs(50), stop)
    part.host.register_actor(ACTOR_TYPE, silent)
    part.start()
    part.work(perf_counter())
    part.host.stop()
    assert (stop.error, stop.exit_code) == ("host-1: 3 workers did not end within 0.2 s of the deadline", 1)
    assert part.tally.working == 0


def test_a_lost_message_is_an_imbalance() -> None:
    metrics = {
        "messages_sent": 10,
        "messages_received": 6,
        "messages_dead_lettered": 1,
        "messages_queued": 1,
        "messages_forwarded": 1,
        "messages_arrived": 3,
    }
    assert imbalance({**metrics, "messages_sent": 9}) is None
    assert imbalance(metrics) == ("the counters do not balance: 10 sent, 6 received, 1 dead, 1 queued, 1 forwarded")


def test_workers_have_random_numbers_of_their_own(options: LoadOptions) -> None:
    draws = {
        HostSpec(host, replace(options, seed=seed)).rng(worker).random()
        for host in range(2)
        for seed in range(2)
        for worker in range(2)
    }
    assert len(draws) == 8
    assert HostSpec(1, options).rng(3).random() == HostSpec(1, options).rng(3).random()


def test_all_workers_enter_where_the_mode_says(options: LoadOptions) -> None:
    def workers(mode: str) -> list[int]:
        return [HostSpec(index, replace(options, mode=mode, hosts=3)).workers for index in range(3)]

    assert workers("mixed") == workers("local") == [3, 3, 3]
    assert workers("forward") == [9, 0, 0]


def test_admin_ports_are_8081_and_up(options: LoadOptions) -> None:
    assert HostSpec(0, options).admin_addr is None
    spec = HostSpec(2, options, admin=True)
    assert spec.admin_addr == "127.0.0.1:8083"


def test_a_port_that_another_test_takes_just_now_is_left_to_it(
    options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def admin_port() -> int:
        part.start()
        try:
            return int(str(part.admin()).rpartition(":")[2])
        finally:
            part.host.stop()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(part_module, "_FIRST_ADMIN_PORT", port)
        part = Part(HostSpec(0, options, admin=True), make_refs(50), Stop())
        assert admin_port() not in (0, port)
    part = Part(HostSpec(0, options, admin=True), make_refs(50), Stop())
    assert admin_port() == port
