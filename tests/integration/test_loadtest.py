"""The load test as users run it: the command in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ujson

from theatre_gevent import build

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "loadtest.py")]
ALONE = [*COMMAND, "-hosts", "1"]


def load(folder: Path, arguments: str, expect: int = 0) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run the command with one host and `-json`; return the result and what was printed."""
    done = subprocess.run(
        [*ALONE, "-json", "out.json", *arguments.split()], cwd=folder, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return ujson.loads((folder / "out.json").read_text()), done


def test_a_run_from_banner_to_json(tmp_path: Path) -> None:
    run, done = load(tmp_path, "-profile small -actors 300 -workers 4 -duration 1s -seed 5")
    assert done.stderr == ""
    assert done.stdout.startswith("theatre_gevent load test\n  profile:      small\n")
    assert "=== summary ===" in done.stdout
    fields = (
        "ops_per_second sends requests reply_errors inits shutdowns actors_active_peak peak_rss_bytes duration_seconds "
        "latency_ms profile hosts mode build python per_host different_actors_activated"
    )
    assert set(fields.split()) <= set(run)
    assert (run["profile"], run["hosts"], run["mode"], run["build"]) == ("small", 1, "mixed", build)
    assert run["sends"] > 0
    assert run["requests"] > 0
    assert run["reply_errors"] == run["send_errors"] == 0
    assert run["inits"] == run["shutdowns"] == run["different_actors_activated"] == run["actors_active_peak"] == 300
    assert run["ops_per_second"] == pytest.approx((run["sends"] + run["requests"]) / run["duration_seconds"])
    assert run["duration_seconds"] >= 1.0
    latency = run["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert run["peak_rss_bytes"] > 10 << 20
    (host,) = run["per_host"]
    assert host["metrics"]["messages_received"] == host["metrics"]["messages_sent"] == run["sends"] + run["requests"]
    assert host["metrics_stopped"]["actors_active"] == 0


def test_warm_makes_all_actors_before_the_clock_starts(tmp_path: Path) -> None:
    run, done = load(tmp_path, "-actors 5000 -duration 500ms -warm -idle 30s")
    assert re.search(r"^warm: 5,000 actors alive in [\d.]+ s, [\d,]+ activations/s$", done.stdout, re.MULTILINE)
    assert run["warm_actors_alive"] == run["inits"] == run["actors_active_peak"] == 5000
    assert run["activations_per_second"] > 0
    (host,) = run["per_host"]
    assert host["metrics"]["messages_received"] == 5000 + run["sends"] + run["requests"], (
        "warm messages are no operations"
    )


def test_idle_actors_leave_and_come_back(tmp_path: Path) -> None:
    run, _ = load(tmp_path, "-actors 400000 -workers 2 -duration 3s -idle 200ms")
    assert run["per_host"][0]["metrics"]["activations_total"] > run["actors_active_peak"]
    assert run["different_actors_activated"] <= run["inits"] == run["shutdowns"]
    assert run["reply_errors"] == 0


def test_small_inboxes_make_workers_wait_and_nothing_is_refused(tmp_path: Path) -> None:
    run, _ = load(tmp_path, "-actors 5 -workers 20 -inbox 1 -hostinbox 2 -duration 1s")
    assert run["reply_errors"] == run["send_errors"] == 0
    assert run["per_host"][0]["metrics"]["inbox_full"] == 0
    assert run["sends"] > 100


def test_progress_every_five_seconds_under_full_load(tmp_path: Path) -> None:
    _, done = load(tmp_path, "-sendpct 100 -duration 5500ms")
    (line,) = re.findall(r"^\[.*$", done.stdout, re.MULTILINE)
    shape = (
        r"\[ +\d+ s\] +[\d,]+ ops/s  CPU +[\d.]+ %  RSS +[\d,]+ MiB  actors +[\d,]+  "
        r"greenlets \d+ load \+ \d+ host  GC \+\d+ \(\d+ ms\)"
    )
    assert re.fullmatch(shape, line)


def test_over_the_memory_limit_the_run_ends_with_its_summary(tmp_path: Path) -> None:
    run, done = load(tmp_path, "-profile massive -memlimit 150M -duration 40s", expect=1)
    assert re.fullmatch(
        r"loadtest\.py: memory limit exceeded: [\d,]+ MiB resident, -memlimit is 150 MiB\n", done.stderr
    )
    assert "=== summary ===" in done.stdout
    assert run["duration_seconds"] < 40
    assert "memory limit" in run["error"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_with_its_summary(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*ALONE, "-actors", "50", "-warm", "-duration", "50s", "-json", "out.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("warm:"):
                break
        os.kill(process.pid, number)
        rest, errors = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert errors == ""
    assert f"{number.name}: ending the run" in rest
    assert "=== summary ===" in rest
    run = ujson.loads((tmp_path / "out.json").read_text())
    assert run["duration_seconds"] < 45
    assert run["inits"] == run["shutdowns"] == 50


def test_bad_flags_are_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "-hosts", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "loadtest.py: -hosts must be a whole number from 1 to 100, got '0'\n"


def test_help_lists_all_flags(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "-help"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    flags = (
        "profile hosts inprocess mode dsn actors workers duration memlimit sendpct cpuprofile memprofile seed warm json"
    )
    for flag in flags.split():
        assert f"  -{flag}" in done.stdout


def test_cpu_profiles_show_actors_and_workers(tmp_path: Path) -> None:
    load(tmp_path, "-duration 2s -cpuprofile p.json")
    profile = ujson.loads((tmp_path / "p.json").read_text())
    names = [frame["name"].rpartition(".")[2] for frame in profile["shared"]["frames"]]
    (samples,) = profile["profiles"]
    assert samples["type"] == "sampled"
    assert len(samples["samples"]) == len(samples["weights"])
    seen = {names[number] for stack in samples["samples"] for number in stack}
    plain = {"send", "request"} if build == "pure" else set()  # compiled functions have no frames
    assert {"receive", "work"} | plain <= seen, "stacks of actors' greenlets and of workers'"

    _, done = load(tmp_path, "-duration 1s -cpuprofile p.html")
    assert "CPU: expect lower figures" in done.stdout
    page = (tmp_path / "p.html").read_text()
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert "workload.py" in page


def test_memory_profile_names_the_lines_that_hold_most(tmp_path: Path) -> None:
    load(tmp_path, "-actors 20000 -warm -idle 60s -duration 500ms -memprofile m.txt")
    lines = (tmp_path / "m.txt").read_text().splitlines()
    assert "20,000 of 20,000 actors alive" in lines[0]
    sizes = [int(line.split()[0].replace(",", "")) for line in lines[3:63]]
    assert sizes == sorted(sizes, reverse=True)
    # Compiled functions are no source lines: what they hold stands at the load test's line that called them.
    assert ("THEATRE_PURE=1" in lines[0]) is (build == "compiled")
    place = "theatre_gevent/core/" if build == "pure" else "theatre_gevent/loadtest/workload.py"
    assert any(place in line for line in lines[3:10])
