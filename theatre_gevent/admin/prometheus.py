"""A host's metrics in the form of prometheus-client, and the text that Prometheus scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .._version import __version__
from ..metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .view import HostView, TypeCounts

GAUGES = {
    "messages_queued",
    "requests_pending",
    "actors_active",
    "senders_waiting",
    "peers_up",
    "placements_cached",
    "messages_held",
    "claims_waiting",
    "schedules_pending",
    "schedules_lag_ms",
}
"""Names in `METRICS` that go up and down; the others only rise."""

STATES = ("new", "starting", "active", "frozen", "rejoining", "draining", "stopped")


class HostCollector(Collector):
    """Gives a registry of prometheus-client the metrics of one host; all work is done when it is scraped.

    For a program with a registry of its own: `registry.register(HostCollector(view))`.

    Args:
        view: The host.
    """

    def __init__(self, view: HostView) -> None:
        self._view = view
        self._highest: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        view = self._view
        state = view.state()
        yield InfoMetricFamily("theatre_host", "the host", value={"host_id": view.host_id, "version": __version__})
        states = GaugeMetricFamily("theatre_host_state", "1 for the state that the host is in", labels=["state"])
        for name in (*STATES, *(() if state in STATES else (state,))):
            states.add_metric([name], float(name == state))
        yield states
        yield GaugeMetricFamily("theatre_start_time_seconds", "when the host was started", value=view.started_at())
        yield GaugeMetricFamily("theatre_hub_lag_seconds", "how late the hub was for a timer", value=view.hub_lag())
        lease = view.lease()
        if lease is not None:
            yield GaugeMetricFamily("theatre_lease_remaining_seconds", "what is left of the lease", value=lease)
        yield from self._counters()
        yield from _by_type(view.types(), view)

    def _counters(self) -> Iterator[Metric]:
        for name, value in self._view.metrics().items():
            text = METRICS.get(name, name)
            if name.endswith("_ms"):
                yield GaugeMetricFamily(f"theatre_{name.removesuffix('_ms')}_seconds", text, value=value / 1000)
                continue
            if name in GAUGES:
                yield GaugeMetricFamily(f"theatre_{name}", text, value=value)
                continue
            # A message that comes back from another host was not sent after all. A counter that falls would be taken
            # for one that began anew, and its whole value for the rate of that moment.
            self._highest[name] = highest = max(value, self._highest.get(name, 0))
            yield CounterMetricFamily(f"theatre_{name.removesuffix('_total')}", text, value=highest)


def _by_type(types: list[TypeCounts], view: HostView) -> Iterator[Metric]:
    counters: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "messages": CounterMetricFamily("theatre_actor_messages", METRICS["messages_received"], labels=["type"]),
        "activations": CounterMetricFamily("theatre_actor_activations", METRICS["activations_total"], labels=["type"]),
        "failed": CounterMetricFamily(
            "theatre_actor_activations_failed", METRICS["activations_failed"], labels=["type"]
        ),
        "errors": CounterMetricFamily("theatre_actor_errors", METRICS["receiver_errors"], labels=["type"]),
        "active": GaugeMetricFamily("theatre_actors", METRICS["actors_active"], labels=["type"]),
    }
    times = HistogramMetricFamily(
        "theatre_actor_handling_seconds",
        "how long receivers took for a message, waits included; sampled, each sample counted for those it stands for",
        labels=["type"],
    )
    bounds = [*(f"{bound:g}" for bound in view.bounds), "+Inf"]
    for counts in types:
        for name, family in counters.items():
            family.add_metric([counts.name], getattr(counts, name))
        total, buckets = 0, []
        for bound, count in zip(bounds, counts.times, strict=True):
            total += count
            buckets.append((bound, float(total)))
        times.add_metric([counts.name], buckets, counts.seconds)
    yield from counters.values()
    yield times


def new_registry(view: HostView) -> CollectorRegistry:
    """Return a registry with the metrics of a host and of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HostCollector(view))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the text that was asked for with an Accept header, and its content type."""
    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # the library reads a version in it that is none
        encoder, content_type = choose_encoder("")
    return encoder(registry), content_type
