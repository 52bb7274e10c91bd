"""What is printed and written: banner, progress, summary, JSON."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import gevent
import ujson

from ..memory import are_huge_pages_available
from .files import write
from .monitor import GC_BANNER
from .result import operations, summarize
from .workload import TIMED_EVERY

if TYPE_CHECKING:
    from pathlib import Path

    from .options import LoadOptions
    from .result import HostResult, Progress, Warmth
    from .stop import Stop

_MIB = 1 << 20
_ADMIN_SHOWN = 5
_BUILDS = {"pure": "plain Python", "compiled": "compiled"}


def banner(options: LoadOptions, build: str, database: str | None = None) -> str:
    """Return what is about to be done, with what.

    Args:
        options: What was asked for.
        build: What `process.build` says.
        database: Which one the hosts share, None for none.
    """
    hosts = "standalone" if database is None else "Postgres"
    if options.hosts > 1:
        hosts = "ring-only" if database is None else "Postgres"
        hosts += ", " + ("a process each" if options.processes else "in one process")
    through = f" ({options.workers * options.hosts:,}, all through host-1)" if options.mode == "forward" else ""
    limit = f"{options.memlimit / _MIB:,.0f} MiB" if options.memlimit else "none"
    rows = [
        ("profile", options.profile),
        ("hosts", f"{options.hosts} ({hosts})"),
        ("mode", options.mode),
        ("actors", f"{options.actors:,}" + (", all activated first" if options.warm else "")),
        ("workers", f"{options.workers:,} per host{through}"),
        ("mix", f"{options.sendpct} % send, {100 - options.sendpct} % request"),
        ("duration", f"{options.duration:g} s"),
        ("inboxes", f"{options.actor_inbox:,} per actor, {options.host_inbox:,} per host"),
        ("idle timeout", f"{options.idle_timeout:g} s"),
        ("memlimit", limit),
        ("seed", str(options.seed)),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("gevent", gevent.__version__),
        ("build", _BUILDS[build]),
        ("GC", GC_BANNER),
        ("memory", "in huge pages of 2 MiB" if are_huge_pages_available() else "in pages of the usual size"),
    ]
    if database is not None:
        rows.insert(2, ("database", database))
    tools = [name for name, path in (("CPU", options.cpuprofile), ("memory", options.memprofile)) if path is not None]
    if tools:
        rows.append(("profiling", " and ".join(tools) + ": expect lower figures"))
    return "theatre_gevent load test\n" + "\n".join(f"  {name + ':':<14}{value}" for name, value in rows)


def progress_line(samples: list[Progress], rss: int) -> str:
    """Return one line for what all processes reported of an interval.

    Args:
        samples: One of each process with hosts.
        rss: Resident memory of all processes in bytes.

    CPU is in percent of one core; greenlets are the load's own plus the hosts' workers, at work or parked.
    """
    rate = sum(s["operations"] / s["interval"] for s in samples)
    load = sum(s["load_greenlets"] for s in samples)
    hosts = sum(s["host_greenlets"] for s in samples)
    return (
        f"[{max(s['elapsed'] for s in samples):5.0f} s]  {rate:11,.0f} ops/s  "
        f"CPU {sum(s['cpu_percent'] for s in samples):5.1f} %  "
        f"RSS {rss / _MIB:7,.0f} MiB  "
        f"actors {sum(s['actors_active'] for s in samples):9,}  "
        f"greenlets {load} load + {hosts} host  "
        f"GC +{sum(s['gc_collections'] for s in samples)} ({1000 * sum(s['gc_seconds'] for s in samples):.0f} ms)"
    )


def admin_line(addresses: list[str]) -> str:
    """Return where the hosts' admin servers are, each with a dashboard of all hosts."""
    shown = [f"http://{address}/" for address in addresses[:_ADMIN_SHOWN]]
    return "dashboard: " + "  ".join(shown) + ("  ..." if len(addresses) > _ADMIN_SHOWN else "")


def warm_line(warmth: Warmth) -> str:
    """Return what the warm start did."""
    rate = warmth["activations"] / warmth["seconds"] if warmth["seconds"] > 0 else 0.0
    return f"warm: {warmth['actors_alive']:,} actors alive in {warmth['seconds']:.2f} s, {rate:,.0f} activations/s"


def result(options: LoadOptions, build: str, parts: list[HostResult], peak_rss: int, stop: Stop) -> dict[str, Any]:
    """Return the machine-readable result of a run.

    Args:
        options: What was asked for.
        build: `compiled` or `pure`.
        parts: What each host counted; none if one of them crashed.
        peak_rss: Resident bytes of all processes together, the most at one time.
        stop: Why the run ended, if before its time.
    """
    per_host = []
    for part in parts:
        row: dict[str, Any] = {key: value for key, value in part.items() if key not in ("activated", "latencies")}
        row["ops_per_second"] = operations(part) / part["duration"] if part["duration"] > 0 else 0.0
        per_host.append(row)
    return {
        **summarize(parts),
        "peak_rss_bytes": peak_rss,
        "error": stop.error,
        "exit_code": stop.exit_code,
        "latency_timed_every": TIMED_EVERY,
        "profile": options.profile,
        "hosts": options.hosts,
        "processes": options.processes or 1,
        "mode": options.mode,
        "database": None,
        "build": build,
        "python": platform.python_version(),
        "gevent": gevent.__version__,
        "actors": options.actors,
        "workers_per_host": options.workers,
        "sendpct": options.sendpct,
        "seed": options.seed,
        "warm": options.warm,
        "gc": GC_BANNER,
        "per_host": per_host,
    }


def summary(run: dict[str, Any]) -> str:
    """Return the final summary of a `result`."""
    latency = run["latency_ms"]
    figures = "  ".join(f"{name} {_ms(latency[name])}" for name in ("p50", "p95", "p99", "max"))
    rows = [
        ("duration", f"{run['duration_seconds']:.3f} s, until the last accepted message was handled"),
        ("ops/s", f"{run['ops_per_second']:,.0f}"),
        ("sends", f"{run['sends']:,}" + _by_kind("refused besides", run["send_errors_by_kind"])),
        ("requests", f"{run['requests']:,}"),
        ("reply errors", f"{run['reply_errors']:,}" + _by_kind("", run["reply_errors_by_kind"])),
        ("inits", f"{run['inits']:,}"),
        ("shutdowns", f"{run['shutdowns']:,}"),
        (
            "actors",
            f"{run['different_actors_activated']:,} different ones activated of {run['actors']:,}, "
            f"{run['actors_active_peak']:,} alive at once at most",
        ),
        ("latency", f"{figures}  (requests; {run['latency_samples']:,} timed, 1 in {run['latency_timed_every']})"),
        ("peak RSS", f"{run['peak_rss_bytes'] / _MIB:,.0f} MiB" + _together(run["processes"])),
        ("CPU", f"{run['cpu_seconds']:.2f} s"),
        ("GC", f"{run['gc_collections']} collections, {run['gc_seconds']:.3f} s"),
    ]
    if "activations_per_second" in run:
        rows.append(("warm", f"{run['activations_per_second']:,.0f} activations/s"))
    if run["database"] is not None:
        rows.append(("database", _database(run)))
    lines = ["", "=== summary ===", *(f"  {name + ':':<14}{value}" for name, value in rows), ""]
    lines += _examples(run["per_host"])
    lines += _table(run["per_host"])
    return "\n".join(lines)


def write_json(path: Path, run: dict[str, Any]) -> None:
    """Write a `result` as one JSON object.

    Raises:
        Unwritable: It can't be written.
    """
    write(path, ujson.dumps(run, indent=2, escape_forward_slashes=False) + "\n")


def _together(processes: int) -> str:
    return f", {processes} processes and this one together" if processes > 1 else ""


def _database(run: dict[str, Any]) -> str:
    def total(metric: str) -> int:
        return sum(int(row["metrics_stopped"][metric]) for row in run["per_host"])

    transactions = run["database"]["transactions"]
    in_all = "and it does not answer any more" if transactions is None else f"{transactions:,} transactions in all"
    return (
        f"{total('claims_total'):,} claims and {total('releases_total'):,} releases in "
        f"{total('claim_statements'):,} statements, {in_all}"
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"


def _by_kind(label: str, errors: dict[str, int]) -> str:
    if not errors:
        return ""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(errors.items()))
    return f" ({label} {kinds})" if label else f" ({kinds})"


def _examples(per_host: list[dict[str, Any]]) -> list[str]:
    lines = [f"  {row['host']}, first {kind}: {text}" for row in per_host for kind, text in row["examples"].items()]
    return [*lines, ""] if lines else []


_COLUMNS = {
    "SENT": "messages_sent",
    "RECEIVED": "messages_received",
    "DEAD": "messages_dead_lettered",
    "REQUESTS": "requests_total",
    "TIMEOUTS": "requests_timed_out",
    "ACTIVATED": "activations_total",
    "ACTIVE": "actors_active",
}
_CLUSTER_COLUMNS = {
    "FORWARDED": "messages_forwarded",
    "ARRIVED": "messages_arrived",
    "RETURNED": "messages_returned",
}


def _table(per_host: list[dict[str, Any]]) -> list[str]:
    columns = _COLUMNS | (_CLUSTER_COLUMNS if len(per_host) > 1 else {})
    lines = ["  " + f"{'HOST':<10}" + "".join(f"{title:>13}" for title in [*columns, "OPS/S", "PEAK MIB"])]
    for row in per_host:
        cells = [row["metrics"].get(metric, 0) for metric in columns.values()]
        cells += [round(row["ops_per_second"]), round(row["process"]["peak_rss"] / _MIB)]
        lines.append("  " + f"{row['host']:<10}" + "".join(f"{cell:>13,}" for cell in cells))
    return lines
