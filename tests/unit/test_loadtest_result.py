"""Parts of a run become one result."""

from __future__ import annotations

import pytest
import ujson

from theatre_gevent.loadtest import report
from theatre_gevent.loadtest.histogram import Histogram
from theatre_gevent.loadtest.options import parse
from theatre_gevent.loadtest.result import HostResult, Progress, operations, summarize
from theatre_gevent.loadtest.stop import Stop

METRICS = {
    "messages_sent": 100,
    "messages_received": 99,
    "messages_dead_lettered": 1,
    "messages_queued": 0,
    "requests_total": 30,
    "requests_timed_out": 2,
    "activations_total": 3,
    "actors_active": 3,
    "messages_forwarded": 0,
    "messages_arrived": 0,
    "messages_returned": 0,
}


def part(host: str, activated: bytes, latencies_ms: list[int], **changes: object) -> HostResult:
    histogram = Histogram()
    for ms in latencies_ms:
        histogram.record(ms * 1_000_000)
    base: HostResult = {
        "host": host,
        "duration": 2.0,
        "sends": 70,
        "requests": 30,
        "send_errors": {},
        "reply_errors": {"RequestTimeout": 2},
        "examples": {"RequestTimeout": "no reply from worker/1 within 3 s"},
        "inits": 3,
        "shutdowns": 3,
        "actors_active_peak": 3,
        "activated": activated,
        "latencies": histogram.data(),
        "warm": None,
        "process": {
            "pid": sum(host.encode()),
            "peak_rss": 1000,
            "cpu_seconds": 1.5,
            "gc_collections": 1,
            "gc_seconds": 0.25,
        },
        "metrics": METRICS,
        "metrics_stopped": METRICS,
    }
    return {**base, **changes}  # type: ignore[typeddict-item]


def test_failed_requests_are_no_operations() -> None:
    assert operations(part("a", b"", [])) == 98


def test_two_hosts_make_one_result() -> None:
    run = summarize(
        [
            part("a", bytes([1, 0, 1, 0]), [1] * 50),
            part("b", bytes([1, 1, 0, 0]), [9] * 50, duration=4.0, send_errors={"InboxFull": 4}),
        ]
    )
    assert run["ops_per_second"] == 2 * 98 / 4.0
    assert (run["sends"], run["requests"], run["inits"], run["shutdowns"]) == (140, 60, 6, 6)
    assert (run["reply_errors"], run["reply_errors_by_kind"]) == (4, {"RequestTimeout": 4})
    assert (run["send_errors"], run["send_errors_by_kind"]) == (4, {"InboxFull": 4})
    assert run["different_actors_activated"] == 3, "actor 0 was active on both hosts and counts once"
    assert (run["cpu_seconds"], run["gc_collections"], run["gc_seconds"]) == (3.0, 2, 0.5)
    assert run["latency_ms"]["p50"] == pytest.approx(1, rel=1 / 60)
    assert run["latency_ms"]["p99"] == pytest.approx(9, rel=1 / 60)
    assert run["latency_ms"]["max"] == 9
    assert "activations_per_second" not in run


def test_what_hosts_in_one_process_share_counts_once() -> None:
    shared = part("a", b"", [])["process"]
    run = summarize([part("a", b"", [], process=shared), part("b", b"", [], process=shared)])
    assert (run["cpu_seconds"], run["gc_collections"], run["gc_seconds"]) == (1.5, 1, 0.25)
    assert run["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None}


def test_a_run_without_parts_has_its_error() -> None:
    stop = Stop()
    stop.ask(1, "host-2 (process 7) was ended by SIGKILL")
    run = report.result(parse(["-hosts", "3", "-mode", "local"]), "pure", [], 5, stop)
    assert (run["error"], run["exit_code"]) == ("host-2 (process 7) was ended by SIGKILL", 1)
    assert (run["per_host"], run["ops_per_second"], run["hosts"], run["peak_rss_bytes"]) == ([], 0.0, 3, 5)
    assert ujson.loads(ujson.dumps(run))["error"] == run["error"]


def test_activation_rate_is_that_of_the_slowest_host() -> None:
    warmth = {"actors_alive": 10, "activations": 10, "seconds": 2.0}
    run = summarize([part("a", b"", [], warm=warmth), part("b", b"", [], warm={**warmth, "seconds": 4.0})])
    assert (run["warm_actors_alive"], run["activations_per_second"]) == (20, 5.0)


def test_the_result_is_json_and_the_summary_shows_all_of_it() -> None:
    options = parse(["-actors", "4", "-hosts", "2", "-mode", "local"])
    parts = [part("host-1", bytes([1, 0, 1, 0]), [5]), part("host-2", bytes(4), [5])]
    run = report.result(options, "pure", parts, 3 << 20, Stop())
    assert (run["error"], run["exit_code"], run["processes"]) == (None, 0, 2)
    assert ujson.loads(ujson.dumps(run))["per_host"][1]["host"] == "host-2"
    text = report.summary(run)
    for shown in (
        "98",
        "140",
        "4 (4 RequestTimeout)",
        "2 different ones activated of 4",
        "p99 5.000 ms",
        "no reply from",
        "3 MiB, 2 processes and this one together",
        "FORWARDED",
    ):
        assert shown in text
    table = text.splitlines()[-3:]
    assert table[0].split()[:4] == ["HOST", "SENT", "RECEIVED", "DEAD"]
    assert [row.split()[:4] for row in table[1:]] == [["host-1", "100", "99", "1"], ["host-2", "100", "99", "1"]]


def test_banner_names_every_setting() -> None:
    text = report.banner(
        parse(["-profile", "massive", "-hosts", "1", "-warm", "-memlimit", "0", "-cpuprofile", "p.json"]), "pure"
    )
    for shown in (
        "massive",
        "1 (standalone)",
        "mixed",
        "1,000,000, all activated first",
        "100 per host",
        "8 per actor, 32,768 per host",
        "30 s",
        "none",
        "plain Python",
        "survivors frozen",
        "CPU: expect lower figures",
    ):
        assert shown in text


def test_banner_says_where_the_hosts_are() -> None:
    def shown(flags: str) -> str:
        return report.banner(parse(["-mode", "local", *flags.split()]), "pure")

    assert "3 (ring-only, a process each)" in shown("-hosts 3")
    assert "3 (ring-only, in one process)" in shown("-hosts 3 -inprocess")


def test_progress_of_several_processes_is_one_line() -> None:
    sample: Progress = {
        "elapsed": 5.0,
        "interval": 5.0,
        "operations": 5000,
        "cpu_percent": 90.0,
        "rss": 10 << 20,
        "actors_active": 7,
        "load_greenlets": 10,
        "host_greenlets": 3,
        "gc_collections": 1,
        "gc_seconds": 0.5,
    }
    line = report.progress_line([sample, sample], 25 << 20)
    assert "\n" not in line
    for shown in ("2,000 ops/s", "CPU 180.0 %", "25 MiB", "actors        14", "20 load + 6 host", "GC +2 (1000 ms)"):
        assert shown in line
