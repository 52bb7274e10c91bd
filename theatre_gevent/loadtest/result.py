"""What one host's part of a load test returns, and how the parts become one result.

Parts are plain data, so that they can come from other processes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypedDict

from .histogram import Histogram, HistogramData


class Progress(TypedDict):
    """How one process did since its last progress; times in seconds, sizes in bytes."""

    elapsed: float
    interval: float
    operations: int
    cpu_percent: float
    """Of one core."""
    rss: int
    actors_active: int
    load_greenlets: int
    """Workers of the load test that are still at work."""
    host_greenlets: int
    """Greenlets that the host keeps to run actors, at work or parked."""
    gc_collections: int
    gc_seconds: float


class Warmth(TypedDict):
    """What `-warm` did."""

    actors_alive: int
    activations: int
    seconds: float


class ProcessUsage(TypedDict):
    """What one process used; times in seconds, sizes in bytes."""

    pid: int
    peak_rss: int
    cpu_seconds: float
    """While the workers worked."""
    gc_collections: int
    gc_seconds: float


class PartResult(TypedDict):
    """What one host counted; times in seconds."""

    host: str
    duration: float
    """From the start of the workers until the last accepted message was handled."""
    sends: int
    """Messages sent and accepted."""
    requests: int
    """Requests made, answered or not."""
    send_errors: dict[str, int]
    """Sends refused, by kind."""
    reply_errors: dict[str, int]
    """Requests that failed, by kind."""
    examples: dict[str, str]
    """The first error of each kind, in its own words."""
    inits: int
    shutdowns: int
    actors_active_peak: int
    activated: bytes
    """One byte per actor of the pool: 1 if it was ever active here."""
    latencies: HistogramData
    warm: Warmth | None
    metrics: dict[str, int]
    """The host's counters at the end of `duration`."""
    metrics_stopped: dict[str, int]
    """The same after the host had stopped."""


class HostResult(PartResult):
    """One host's part."""

    process: ProcessUsage
    """Of the process that the host lived in, maybe with others."""


def operations(part: PartResult) -> int:
    """Return how many operations succeeded: sends that were accepted and requests that were answered."""
    return part["sends"] + part["requests"] - sum(part["reply_errors"].values())


def summarize(parts: list[HostResult]) -> dict[str, Any]:
    """Merge the parts of all hosts, of one process or several, into the figures of the whole."""
    latencies = Histogram()
    seen = 0
    reply_errors: Counter[str] = Counter()
    send_errors: Counter[str] = Counter()
    for part in parts:
        latencies.merge(part["latencies"])
        seen |= int.from_bytes(part["activated"], "little")
        reply_errors.update(part["reply_errors"])
        send_errors.update(part["send_errors"])
    duration = max((part["duration"] for part in parts), default=0.0)
    processes = {part["process"]["pid"]: part["process"] for part in parts}.values()
    summary: dict[str, Any] = {
        "ops_per_second": sum(map(operations, parts)) / duration if duration > 0 else 0.0,
        "operations": sum(map(operations, parts)),
        "sends": sum(part["sends"] for part in parts),
        "requests": sum(part["requests"] for part in parts),
        "send_errors": send_errors.total(),
        "send_errors_by_kind": dict(send_errors),
        "reply_errors": reply_errors.total(),
        "reply_errors_by_kind": dict(reply_errors),
        "inits": sum(part["inits"] for part in parts),
        "shutdowns": sum(part["shutdowns"] for part in parts),
        "different_actors_activated": seen.bit_count(),
        # The hosts' peaks need not coincide, so with several hosts this is an upper bound.
        "actors_active_peak": sum(part["actors_active_peak"] for part in parts),
        "duration_seconds": duration,
        "latency_ms": latency_ms(latencies),
        "latency_samples": latencies.count(),
        "cpu_seconds": sum(process["cpu_seconds"] for process in processes),
        "gc_collections": sum(process["gc_collections"] for process in processes),
        "gc_seconds": sum(process["gc_seconds"] for process in processes),
    }
    warmths = [part["warm"] for part in parts if part["warm"] is not None]
    if warmths:
        seconds = max(warmth["seconds"] for warmth in warmths)
        summary["warm_actors_alive"] = sum(warmth["actors_alive"] for warmth in warmths)
        summary["warm_seconds"] = seconds
        summary["activations_per_second"] = sum(w["activations"] for w in warmths) / seconds if seconds > 0 else 0.0
    return summary


def latency_ms(latencies: Histogram) -> dict[str, float | None]:
    """Return p50, p95, p99 and max in milliseconds, None where nothing was measured."""
    figures = {f"p{percent}": latencies.percentile_ns(percent) for percent in (50, 95, 99)}
    figures["max"] = latencies.max_ns if latencies.count() else None
    return {name: None if ns is None else ns / 1e6 for name, ns in figures.items()}
