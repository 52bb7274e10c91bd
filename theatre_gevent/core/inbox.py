"""Inboxes, lent to activations while they have work.

An inbox is a `Fifo`. No greenlet ever blocks on one: a worker takes an activation only when its inbox
has something in it, and senders at a full one wait in the activation's own line. So a `gevent.queue.Queue` would add
its locks' 90 ns to each message and give nothing back; worse, a putter that it keeps waiting inside would be lost when
the inbox goes back to the pool.
"""

from __future__ import annotations

NEVER = -1
"""The bucket of what no `Deadlines` holds."""

TURN_BUDGET = 256
"""Most messages that one activation handles before others get their turn."""

TIME_BUDGET = 0.005
"""Seconds after which workers let the hub look at sockets and timers."""

MAX_TURNS = 4096
"""Most turns before the hub looks at sockets and timers, whatever the clock says: a virtual one stands still."""

MAX_PARKED = 256
"""Workers kept for later; more of them exit when they have nothing to do."""

MAX_POOLED = 4096
"""Queues kept for later, 600 bytes each."""

CLOSED = -(1 << 62)
"""An acceptance limit that every message exceeds, so that sends take the slow path."""
