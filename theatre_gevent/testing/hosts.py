"""Hosts for tests: a cluster in one process, and the end of a host, which must not be late."""

from __future__ import annotations

from contextlib import suppress
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

_PATIENCE = 100
"""Outcomes after which a virtual clock goes on regardless: an actor may raise one and send to itself for ever."""

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

        When that fails, none of the hosts that it has started runs any more.

        Raises:
            HostNotRunning: A host was started before.
            RuntimeError: They were not connected within 30 s.
            Exception: As `Host.start` of a host.
        """
        started: list[Host] = []
        try:
            for host in self:
                host.start()
                started.append(host)
            self._connect()
        except BaseException:
            with suppress(RuntimeError):  # what kept them from starting says more
                stop_hosts(started)
            raise
        return self

    def _connect(self) -> None:
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


def stop_hosts(
    hosts: Iterable[Host], clock: VirtualClock | None = None, outcomes: tuple[type[BaseException], ...] = ()
) -> None:
    """Stop hosts, all at once.

    Args:
        hosts: Those that are stopped already, or were not started, do no harm.
        clock: Their virtual clock, which is advanced until they have stopped; None if they live in real time.
        outcomes: What may be thrown into the caller meanwhile and must not keep hosts from stopping; it is raised
            afterwards.

    Raises:
        RuntimeError: A host did not stop within its own time and 10 s more, or its `stop` raised, or it had stopped by
            itself since a receiver raised, or a receiver raised while it stopped and `panic_recovery` is off; or its
            actors never came to rest, so that time had to pass regardless of them.
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
    thrown: list[BaseException] = []
    unrest: RuntimeError | None = None
    while not all(task.ready() for task in tasks) and time.monotonic() < deadline:
        to_rest = unrest is None and len(thrown) < _PATIENCE
        problem = _let_time_pass(clock, to_rest, (RuntimeError, *outcomes))
        if isinstance(problem, outcomes):
            thrown.append(problem)
        elif isinstance(problem, RuntimeError):
            unrest = unrest or problem
    for host in hosts:
        if (wrong := _what_is_wrong(host)) is not None:
            errors.setdefault(host.host_id, wrong)
    if unrest is not None:
        errors = {"the clock": unrest, **errors}
    failure: RuntimeError | None = None
    if errors:
        told = "; ".join(f"{name}: {error}" for name, error in errors.items())
        failure = RuntimeError(f"hosts of this test did not stop as they should: {told}")
        failure.__cause__ = next(iter(errors.values()))
    if thrown:
        raise thrown[0] from failure
    if failure is not None:
        raise failure


def _let_time_pass(
    clock: VirtualClock | None, to_rest: bool, noted: tuple[type[BaseException], ...]
) -> BaseException | None:
    """Let a little time pass; tells what has stood in the way, if it is one of `noted`."""
    real = SystemClock()
    try:
        if clock is None:
            real.sleep(0.002)
        elif to_rest:
            clock.advance(0.05)
        else:
            clock.force(0.05)
        real.sleep(0 if to_rest else 0.002)  # what waits for something real gets on as well
    except noted as error:
        return error
    return None


def _what_is_wrong(host: Host) -> RuntimeError | None:
    """Return what is wrong with the end of a host, None if nothing is."""
    if host.state != "stopped":
        return RuntimeError(f"it did not stop in time and is {host.state}")
    if host.stopped_by is not None:
        problem = RuntimeError(f"it has stopped by itself: {type(host.stopped_by).__name__}: {host.stopped_by}")
        problem.__cause__ = host.stopped_by
        return problem
    if not host.options.panic_recovery:
        # What raises in a host that is on its way out stops it no more, so it is looked for in the counters.
        counters = host.metrics.snapshot()
        if raised := counters["receiver_errors"] + counters["activations_failed"]:
            times = "once" if raised == 1 else f"{raised} times"
            return RuntimeError(f"a receiver raised while it stopped or was frozen, {times}, see the log")
    return None
