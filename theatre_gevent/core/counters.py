"""Reading what a dispatcher counts: all the work is done here, not on the per-message path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .context import Request
from .fifo import Fifo

if TYPE_CHECKING:
    from .activation import Activation
    from .dispatcher import Dispatcher

CLUSTER_ZEROS = dict.fromkeys(
    (
        "messages_forwarded",
        "messages_arrived",
        "messages_returned",
        "peers_up",
        "placements_cached",
        "messages_held",
        "claims_total",
        "releases_total",
        "claim_statements",
        "claims_waiting",
    ),
    0,
)
"""What a router counts, for a host that has none."""


def _queued(activation: Activation) -> int:
    """Count an inbox without changing it."""
    inbox = activation.inbox
    if inbox is None:
        return 0
    return len(inbox) if isinstance(inbox, Fifo) else 1


def open_requests(dispatcher: Dispatcher) -> int:
    """Return how many requests wait for their reply."""
    waits = (*dispatcher.deadlines, *dispatcher.requests_in_hand())
    return sum(type(waiter) is Request and not waiter.done for waiter in waits)


def snapshot(dispatcher: Dispatcher) -> dict[str, int]:
    """Return the counters that `theatre_gevent.metrics.METRICS` describes."""
    # Inboxes are counted one by one, and not as the difference of the others, so that a lost message shows.
    at_work = {id(a): a for a in dispatcher.ready}
    desks = [worker.desk for worker in dispatcher.workers]
    at_work.update((id(d.activation), d.activation) for d in desks if d.activation is not None)
    # A request that is handed over is accepted and handled in one step, with no inbox between to lose it in.
    router = dispatcher.router
    lifecycle, backpressure = dispatcher.lifecycle, dispatcher.backpressure
    return {
        "messages_sent": dispatcher.accepted + dispatcher.handed_over + (router.taken if router else 0),
        "messages_received": dispatcher.received + dispatcher.handed_over,
        "messages_dead_lettered": dispatcher.dead_lettered + (router.dropped if router else 0),
        "messages_queued": sum(map(_queued, at_work.values())),
        "requests_total": dispatcher.requests_queued + dispatcher.handed_over + (router.requests if router else 0),
        "requests_timed_out": dispatcher.requests_timed_out,
        "requests_abandoned": dispatcher.requests_abandoned,
        "requests_pending": open_requests(dispatcher),
        "replies_late": dispatcher.replies_late,
        "activations_total": lifecycle.activations_total,
        "activations_failed": lifecycle.activations_failed,
        "activations_ended": lifecycle.activations_ended,
        "actors_active": lifecycle.activations_total - lifecycle.activations_ended,
        "receiver_errors": lifecycle.receiver_errors,
        "inbox_full": backpressure.inbox_full,
        "senders_waiting": backpressure.waiting(),
        **(CLUSTER_ZEROS if router is None else router.counters()),
    }
