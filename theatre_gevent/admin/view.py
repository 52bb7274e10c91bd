"""What the admin server may know of a host, and the two things it may have done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from ..clock import Clock
    from ..messages import Ref

T = TypeVar("T")


class Peer(NamedTuple):
    """Another host of the cluster, or this one.

    Attributes:
        host_id: Its id.
        address: Where it is reached by other hosts.
        admin_addr: Where its admin server is; empty where that is not known.
        epoch: Which life of it, None where that is not known.
        lease_expiry: When its lease ends, RFC 3339; None without leases.
        connected: Whether this host has a connection to it.
    """

    host_id: str
    address: str
    admin_addr: str
    epoch: int | None
    lease_expiry: str | None
    connected: bool


class TypeCounts(NamedTuple):
    """What was counted of one actor type.

    Attributes:
        name: The type.
        messages: Messages handed to receivers.
        activations: Activations that came into being.
        failed: Factories and Initialize handlers that raised.
        active: Activations alive now.
        errors: Exceptions raised by receivers.
        times: Sampled messages by handling time, one count for each of `bounds` and one for what is above.
        seconds: How long those took together.
    """

    name: str
    messages: int
    activations: int
    failed: int
    active: int
    errors: int
    times: Sequence[int]
    seconds: float


class Owner(NamedTuple):
    """Where an actor belongs.

    Attributes:
        host_id: The host; empty if nobody knows.
        epoch: Which life of it has the actor, None where that is not known.
        owned: True if that host has the actor for certain, False if nobody has it, None where only asking would tell.
    """

    host_id: str
    epoch: int | None
    owned: bool | None


class HostView(Protocol):
    """One host, to be read. All but `run` is called in the host's own thread.

    Attributes:
        host_id: Its id.
        clock: Its time.
        bounds: Upper bounds of the buckets of handling times, in seconds.
    """

    host_id: str
    clock: Clock
    bounds: Sequence[float]

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the host's thread and wait for it.

        Raises:
            TheatreError: That thread does not answer, or the host was never started.
        """

    def state(self) -> str:
        """Return the host's state."""

    def status(self) -> dict[str, Any]:
        """Return what `/cluster/status` says."""

    def metrics(self) -> dict[str, int]:
        """Return the counters and gauges of `host.metrics`."""

    def types(self) -> list[TypeCounts]:
        """Return what was counted, by registered type."""

    def peers(self) -> list[Peer]:
        """Return the hosts of the cluster, this one among them, sorted by id."""

    def lease(self) -> float | None:
        """Return the seconds left to the lease, None for a host without."""

    def hub_lag(self) -> float:
        """Return by how many seconds the hub was late for its last look at a timer, or is for the next."""

    def started_at(self) -> float:
        """Return the wall time of the start, 0.0 before."""

    def owner(self, ref: Ref) -> Owner:
        """Return where an actor belongs; may ask a database."""

    def detail(self, ref: Ref) -> dict[str, Any] | None:
        """Return what `/cluster/actor-detail` says of an activation on this host, None if there is none."""

    def actors(self, kind: str | None, prefix: str, after: str | None, limit: int) -> dict[str, Any]:
        """Return a page of the activations on this host. Lets others run meanwhile.

        Raises:
            ValueError: `after` is no cursor.
        """

    def schedules(self, limit: int) -> dict[str, Any]:
        """Return what `/cluster/schedules` says; `scope` is `cluster` if every host says the same, else `host`."""

    def errors(self, limit: int) -> dict[str, Any]:
        """Return what `/cluster/errors` says: the last warnings and dead letters, the newest first."""

    def unready(self) -> str | None:
        """Return why the host should get no work, None if it should."""

    def stuck(self) -> str | None:
        """Return why the host must be taken for hung, None if it is well."""

    def drain(self) -> None:
        """Begin to stop the host."""

    def freeze(self) -> None:
        """Freeze the host, and wait for its handlers; from any thread.

        Raises:
            HostNotRunning: It can't.
        """
