"""What a host counts, and how it is read."""

from __future__ import annotations

from collections.abc import Callable

METRICS: dict[str, str] = {
    "messages_sent": "messages accepted by the host",
    "messages_received": "messages handed to a receiver",
    "messages_dead_lettered": "messages accepted that no receiver could process",
    "messages_queued": "messages accepted and not yet handled, counted in the inboxes themselves",
    "requests_total": "requests made",
    "requests_timed_out": "requests whose timeout passed without a reply",
    "requests_abandoned": "requests whose caller was killed or interrupted while it waited",
    "requests_pending": "requests that wait for their reply now",
    "replies_late": "replies to a request that had ended: timed out, abandoned or answered before",
    "activations_total": "activations that came into being",
    "activations_failed": "factories and Initialize handlers that raised",
    "activations_ended": "activations that have left",
    "actors_active": "activations alive now",
    "receiver_errors": "exceptions raised by receivers",
    "inbox_full": "messages refused because an inbox stayed full",
    "senders_waiting": "senders that wait at a full inbox now",
    "messages_forwarded": "messages that this host's senders gave to other hosts, on their way or taken there",
    "messages_arrived": "messages accepted from other hosts",
    "messages_returned": "messages that came back from hosts that did not take them",
    "peers_up": "other hosts that can be reached now",
    "placements_cached": "refs whose host is remembered",
    "messages_held": "messages that wait until it is known where their actors are",
    "claims_total": "claims of actors that the database has answered",
    "releases_total": "actors given back in the database",
    "claim_statements": "statements that claimed or gave back, many actors each",
    "claims_waiting": "claims and releases that wait for the database now",
    "schedules_pending": "schedules that wait for their time; with a database the whole cluster's, on every host",
    "schedules_fired": "messages of schedules that were due and have been sent",
    "schedules_cancelled": "schedules cancelled in time",
    "schedules_recovered": "due schedules taken over from hosts that are gone",
    "schedules_lag_ms": "milliseconds by which the oldest due message of a schedule is late now",
}
"""Name and meaning of every counter and gauge in a snapshot.

At every moment `messages_sent == messages_received + messages_dead_lettered + messages_queued + messages_forwarded`,
each counted by itself.
"""


class Metrics:
    """A host's counters. They are plain integers on the hot path (40 ns each); reading does the work."""

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        self._read = read

    def snapshot(self) -> dict[str, int]:
        """Return all counters and gauges of `METRICS`, consistent with each other, as a new dict; from any thread.

        Raises:
            TheatreError: Called in another thread than the host's, whose hub did not answer within `request_timeout`.
        """
        return self._read()
