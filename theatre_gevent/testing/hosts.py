"""Hosts for tests: a cluster in one process, and the end of a host, which must not be late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import Greenlet

from ..clock import SystemClock
from ..host import Host
from ..messages import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from .clock import VirtualClock

JOIN_TIMEOUT = 30.0
"""Seconds within which all hosts of a cluster have to be connected; it takes a few hundredths."""

_OURS = ("host_id", "clock", "listen", "advertise", "peers", "dsn")


class TestCluster(list[Host]):
    """Hosts of a ring-only cluster in this process, connected over loopback: a list of them.

    They are called `host-1`, `host-2` and so on, and live in real time. `start` returns when each is connected to all
    others.

    Args:
        count: How many hosts.
        own: Options of single hosts, by their ids.
        **options: Options of all hosts: the fields of `HostOptions`, but for those that make the cluster.

    Raises:
        ValueError: `count` is less than 1, or an option is not for tests to give, or `own` names a host that
            does not exist.
        InvalidOption: A host refuses an option.
    """

    __test__ = False  # pytest is not to take it for a class of tests

    def __init__(self, count: int, *, own: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"a cluster has 1 host or more, got {count!r}")
        names = [f"host-{number}" for number in range(1, count + 1)]
        own = own or {}
        for name in own:
            if name not in names:
                raise ValueError(f"own has options for {name!r}, but the hosts are {', '.join(names)}")
        made = []
        for name in names:
            given = {**options, **own.get(name, {})}
            for option in _OURS:
                if option in given:
                    raise ValueError(f"a cluster for tests sets {option} itself; make hosts with Host(...) instead")
            made.append(Host(host_id=name, listen="127.0.0.1:0", **given))
        super().__init__(made)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the hosts and wait until each is connected to all others. Returns the cluster itself.

        Raises:
            RuntimeError: They were not connected within 30 s.
        """
        for host in self:
            host.start()
        peers = {host.host_id: str(host.address) for host in self}
        for host in self:
            host.set_peers(peers)
        up: Callable[[Host], int] = lambda host: host.metrics.snapshot()["peers_up"]  # noqa: E731
        clock = SystemClock()
        deadline = clock.monotonic() + JOIN_TIMEOUT
        while not all(up(host) == len(self) - 1 for host in self):
            if clock.monotonic() > deadline:
                seen = ", ".join(f"{host.host_id} {up(host)}" for host in self)
                raise RuntimeError(f"the hosts were not connected within {JOIN_TIMEOUT:g} s; peers up: {seen}")
            clock.sleep(0.002)
        return self

    def stop(self) -> None:
        """Stop all hosts at once.

        Raises:
            RuntimeError: A host did not stop.
        """
        stop_hosts(self)

    def register_actor(self, name: str, factory: Callable[..., Any]) -> None:
        """Register an actor type on every host, as `Host.register_actor` does.

        Raises:
            RegistrationError: The name is taken, or the factory is none.
        """
        for host in self:
            host.register_actor(name, factory)

    def ref_on(self, host: Host, actor_type: str) -> Ref:
        """Return a ref that the ring gives to `host`, the same at every call."""
        number = 1
        while host.ring_owner(ref := Ref(actor_type, str(number))) != host.host_id:
            number += 1
        return ref


def stop_hosts(hosts: Iterable[Host], clock: VirtualClock | None = None) -> None:
    """Stop hosts, all at once.

    Args:
        hosts: Those that are stopped already, or were not started, do no harm.
        clock: Their virtual clock, which is advanced until they have stopped; None if they live in real time.

    Raises:
        RuntimeError: A host did not stop within its own time and 10 s more, or its `stop` raised, or it had stopped by
            itself since a receiver raised.
    """
    hosts = list(hosts)
    errors: dict[str, BaseException] = {}

    def stop(host: Host) -> None:
        try:
            host.stop()
        except Exception as error:  # noqa: BLE001 - raised below, with those of the other hosts
            errors[host.host_id] = error

    tasks = [Greenlet.spawn(stop, host) for host in hosts]
    time = clock or SystemClock()
    # drain_timeout for the messages, as long for the Shutdown handlers, and what is on top must not hide a real end.
    deadline = time.monotonic() + max((2 * host.options.drain_timeout for host in hosts), default=0.0) + 10.0
    while not all(task.ready() for task in tasks) and time.monotonic() < deadline:
        if clock is None:
            time.sleep(0.002)
        else:
            clock.advance(0.05)
            SystemClock().sleep(0)  # what waits for something real gets on as well
    for host in hosts:
        if host.state != "stopped":
            errors.setdefault(host.host_id, RuntimeError(f"it did not stop in time and is {host.state}"))
        elif host.stopped_by is not None:
            reason = RuntimeError(f"it has stopped by itself: {type(host.stopped_by).__name__}: {host.stopped_by}")
            reason.__cause__ = host.stopped_by
            errors.setdefault(host.host_id, reason)
    if errors:
        told = "; ".join(f"{host_id}: {error}" for host_id, error in errors.items())
        raise RuntimeError(f"hosts of this test did not stop as they should: {told}") from next(iter(errors.values()))
