"""The host: the runtime of one process. Wiring, start and stop, and the verbs that users call."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import Greenlet
from greenlet import getcurrent

from . import forking, monkey
from .administration import Admin
from .clock import Clock, SystemClock
from .cluster.verbs import ClusterVerbs
from .config import HostOptions, check_clock, check_host_id
from .core.closing import Closer
from .core.copying import CopyingDispatcher
from .core.counters import snapshot
from .core.dispatcher import Dispatcher
from .core.native import get_ident
from .core.registry import Registry
from .core.states import HostStates
from .core.watchdog import Watchdog
from .core.worker import Worker
from .errors import HostDraining, HostFrozen, HostNotRunning, InvalidOption
from .logs import fields, safely
from .messages import Receiver, Ref
from .metrics import Metrics
from .scheduling.memory import MemorySchedules
from .scheduling.verbs import ScheduleVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from .cluster.joining import Joined
    from .cluster.membership import RingOnlyCluster
    from .cluster.postgres_cluster import Cluster
    from .cluster.transport import Transport
    from .scheduling.listing import ListedSchedules

F = TypeVar("F", bound="Callable[..., Any]")

log = logging.getLogger("theatre_gevent.host")


class Host(ClusterVerbs, ScheduleVerbs):
    """The runtime of actors in one process.

    Args:
        host_id: Name of this host; a random one by default.
        clock: Where time comes from; tests give a virtual one.
        **options: The fields of `HostOptions`, times in seconds.

    Raises:
        InvalidOption: An option is unknown or out of range.
    """

    def __init__(self, *, host_id: str | None = None, clock: Clock | None = None, **options: Any) -> None:
        self.options = HostOptions.from_mapping(options)
        self.host_id = check_host_id(host_id) or f"host-{uuid.uuid4().hex[:12]}"
        self._clock = check_clock(clock) or SystemClock()
        if self.options.dsn is not None:
            from .cluster.dsn import parse  # only who has a database needs its driver

            parse(self.options.dsn)
        self._registry = Registry(self.options, self._clock)
        kind = CopyingDispatcher if self.options.serialize_local else Dispatcher
        self._dispatcher = kind(self.options, self._clock, self._registry, self._panic)
        self._schedules: ListedSchedules = MemorySchedules(self._dispatcher, self.options.schedule_recovery_interval)
        self._dispatcher.schedules = self._schedules
        self._closer = Closer(self._dispatcher)
        self._transport: Transport | None = None
        self._cluster: RingOnlyCluster | Cluster | None = None
        self._joined: Joined | None = None
        self._stopper: Greenlet[..., None] | None = None
        self._stopped_by: BaseException | None = None
        self._states = HostStates(
            self.host_id, self.options.on_state, self._lease_lost if self.options.on_lease_lost == "drain" else None
        )
        self._admin = Admin(self)
        self._watchdog = Watchdog(self.host_id, self._dispatcher, self._clock)
        if type(self).send is Host.send and type(self).request is Host.request:
            # The dispatcher's own methods, without a call in between: 60 ns of every message.
            vars(self).update(send=self._dispatcher.send, request=self._dispatcher.request)
        self.metrics = Metrics(self._counters)

    # -- life --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """`new`, `starting`, `active`, `frozen`, `rejoining`, `draining` or `stopped`."""
        return self._states.state

    @property
    def stopped_by(self) -> BaseException | None:
        """What has stopped the host that nobody told to; None for one that runs, or that was told.

        It is what a receiver raised while `panic_recovery` was off, or a `HostFrozen` for a lease that was lost while
        `on_lease_lost` was `drain`.
        """
        return self._stopped_by

    def start(self) -> Self:
        """Accept messages from now on, in the hub of the calling thread. Returns the host itself.

        Raises:
            HostNotRunning: The host was started before.
        """
        if self.state != "new":
            raise HostNotRunning(f"host {self.host_id} can't start: it is {self.state}; make a new Host")
        logger = logging.getLogger("theatre_gevent")
        if logger.level == logging.NOTSET:
            logger.setLevel(self.options.log_level)
        monkey.warn_if_unpatched(__name__)
        self._count_suspension()
        self._dispatcher.attach()
        self._states.go("starting")
        try:
            self._admin.open()
            self._join_cluster()
        except BaseException:
            self._admin.close()
            self._states.go("new")
            raise
        self._registry.start(self._dispatcher)
        self._states.go("active")
        self._dispatcher.backpressure.open()
        if self._joined is not None:
            self._joined.watch(self._states)
        self._schedules.start()
        self._watchdog.start()
        forking.watch(self)
        self._admin.serve()
        return self

    def stop(self) -> None:
        """Stop: finish what was accepted, send Shutdown to every actor, let go of everything.

        Takes at most `drain_timeout` for the messages, as long again for the Shutdown handlers, a second for handlers
        that have to be killed, and another one for the `dead_letter_handler`. Calling it again, or at the same time,
        waits for the same end. An actor may call it too: the host then stops in the background, since it has to wait
        for that very actor.
        """
        dispatcher = self._dispatcher
        if self.state == "new":
            self._states.go("stopped")
        if self.state == "stopped" and self._stopper is None:
            return  # it was never started
        if get_ident() != dispatcher.thread:
            options = self.options
            dispatcher.threads.call(self.stop, (), 2 * options.drain_timeout + options.request_timeout + 8)
            return
        self._begin_stop()
        if self._stopper is not None and not self._is_within():
            self._stopper.join()

    def freeze(self) -> None:
        """Suspend the host: refuse work with HostFrozen, fail open requests, make queued messages dead letters.

        Running handlers see `ctx.cancelled` and get `freeze_grace_period` seconds, then they are killed and their
        actors end. Idle actors keep their state. Neither an actor of this host nor a loop callback can call it, since
        it waits for the handlers.

        Raises:
            HostNotRunning: The host is not active.
        """
        if self.state == "frozen":
            self._states.frozen_by_hand = True
            return
        if self.state != "active" or self._is_within():
            who = f"it is {self.state}"
            if self.state == "active":
                who = "an actor can't wait for itself, nor a loop callback for an actor"
            raise HostNotRunning(f"host {self.host_id} can't freeze: {who}")
        if get_ident() != self._dispatcher.thread:
            self._dispatcher.threads.call(self.freeze, (), self.options.freeze_grace_period + 2)
            return
        self._states.go("frozen")
        self._states.frozen_by_hand = True
        safely(log.warning, "host %s freezes", self.host_id, extra=fields(self.host_id))
        refusal = HostFrozen(f"host {self.host_id} is frozen")
        freeze = self._closer.suspend(refusal)
        if self._joined is not None:
            self._joined.router.give_up(refusal)
        self._closer.come_to_rest(freeze, self.options.freeze_grace_period, refusal)

    def unfreeze(self) -> None:
        """Go on after `freeze`.

        Raises:
            HostNotRunning: The host is neither frozen nor active.
        """
        if self.state == "active":
            return
        if self.state != "frozen":
            raise HostNotRunning(f"host {self.host_id} can't unfreeze: it is {self.state}")
        if not self._states.frozen_by_hand:
            raise HostNotRunning(f"host {self.host_id} can't unfreeze: it does so when its lease is renewed")
        if get_ident() != self._dispatcher.thread:
            self._dispatcher.threads.call(self.unfreeze, (), self.options.request_timeout)
            return
        self._states.frozen_by_hand = False
        if self._states.frozen_by_lease:
            return  # the rest comes with the lease
        self._states.go("active")
        self._closer.unfreeze()
        safely(log.warning, "host %s is active again", self.host_id, extra=fields(self.host_id))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Host {self.host_id} {self.state}>"

    # -- admin -------------------------------------------------------------------------------------------------

    @property
    def admin_app(self) -> Callable[..., Iterable[bytes]]:
        """A WSGI application that serves what the admin server does, to be mounted in another one."""
        return self._admin.app

    @property
    def admin_address(self) -> str | None:
        """Where the admin server listens, `host:port`; None without one or before the start."""
        return self._admin.address or None

    # -- cluster -----------------------------------------------------------------------------------------------

    def _join_cluster(self) -> None:
        options = self.options
        if self._transport is None and options.listen is None:
            if self._cluster is not None:
                raise InvalidOption("a cluster needs listen, the address for other hosts, or a transport")
            return
        from .cluster.joining import Joined  # a host by itself needs no sockets: 15 ms of its start

        given = self._transport, self._cluster
        self._joined = joined = Joined(
            self.host_id,
            options,
            self._clock,
            self._dispatcher,
            self._closer,
            self._transport,
            self._cluster,
            self._admin.announced,
        )
        self._transport, self._cluster = joined.transport, joined.cluster
        if (store := joined.schedules()) is not None:
            from .scheduling.durable import DurableSchedules

            self._schedules = DurableSchedules(self._dispatcher, store, options.schedule_recovery_interval)
            self._dispatcher.schedules = self._schedules
        if options.peers is not None:
            try:
                self.set_peers(options.peers)
            except BaseException:
                joined.stop(HostNotRunning(f"host {self.host_id} could not start"))
                self._joined = self._dispatcher.router = None
                self._transport, self._cluster = given
                raise

    # -- actors ------------------------------------------------------------------------------------------------

    def register_actor(self, name: str, factory: Callable[..., Any]) -> None:
        """Register an actor type.

        Args:
            name: The type in `Ref(type, id)`.
            factory: A class with a `receive(ctx)` method, a function without arguments that returns such an object,
                or a plain function `f(ctx)` that handles messages itself.

        Raises:
            RegistrationError: The name is taken, or the factory is none of these.
        """
        self._registry.register(name, factory, self._dispatcher)

    def actor(self, name: str) -> Callable[[F], F]:
        """Register the decorated class or function: `@host.actor("greeter")`."""

        def decorate(factory: F) -> F:
            self.register_actor(name, factory)
            return factory

        return decorate

    def spawn_local(self, ref: Ref) -> None:
        """Activate an actor on this host now, without a message, and wait until it has handled Initialize.

        Raises:
            UnregisteredActorType: Nobody registered `ref.type`.
            RemoteActorError: The factory or Initialize raised.
            RequestTimeout: Initialize took longer than `request_timeout`.
        """
        self._dispatcher.spawn(ref)

    # -- messages ----------------------------------------------------------------------------------------------

    def send(self, ref: Ref, body: object) -> None:
        """Send a message to an actor and go on; from any greenlet and any native thread.

        Waits while the host or the actor's inbox is full, at most `request_timeout` seconds.

        Raises:
            UnregisteredActorType: Nobody registered `ref.type`.
            InvalidRef: `ref` is not a Ref.
            InboxFull: The host or the inbox stayed full.
            HostNotRunning: The host is not started (HostDraining: is stopping; HostFrozen: is frozen).
        """
        self._dispatcher.send(ref, body)

    def request(self, ref: Ref, body: object, timeout: float | None = None) -> Any:
        """Send a message to an actor and wait for its reply; from any greenlet and any native thread.

        Args:
            ref: Whom to ask.
            body: What to ask.
            timeout: Seconds, by default `request_timeout`. In a handler, at most what is left to its own request.

        Returns:
            The body of the reply.

        Raises:
            RequestTimeout: No reply came in time.
            RemoteActorError: The receiver raised an exception, or stopped without a reply.
            CallCycle: Called in a handler that the asked actor waits for.
            ValueError: The timeout is zero or less.
            UnregisteredActorType: Nobody registered `ref.type`.
            InvalidRef: `ref` is not a Ref.
            InboxFull: The host or the inbox stayed full.
            HostNotRunning: The host is not started (HostDraining: is stopping; HostFrozen: is frozen).
        """
        return self._dispatcher.request(ref, body, timeout)

    # -- inside ------------------------------------------------------------------------------------------------

    def _is_within(self) -> bool:
        """Tell whether the caller is the hub or one of the host's own actors, which can't wait for the host."""
        me = getcurrent()
        if me is self._dispatcher.hub or me is self._stopper:
            return True
        return isinstance(me, Worker) and me.desk.dispatcher is self._dispatcher

    def _counters(self) -> dict[str, int]:
        dispatcher = self._dispatcher
        at_rest = self.state == "new" or (self.state == "stopped" and (self._stopper is None or self._stopper.ready()))
        if get_ident() != dispatcher.thread and not at_rest:
            return dispatcher.threads.call(self._counters, (), self.options.request_timeout)  # type: ignore[no-any-return]
        return {**snapshot(dispatcher), **self._schedules.counters()}

    def _refusal(self) -> HostDraining:
        word = "has stopped" if self.state == "stopped" else "is stopping"
        refusal = HostDraining(f"host {self.host_id} {word} and takes no messages")
        refusal.__cause__ = self._stopped_by
        return refusal

    def _begin_stop(self) -> None:
        if self.state not in ("draining", "stopped"):
            frozen = self.state in ("frozen", "rejoining")
            self._states.go("draining")
            self._schedules.stop()
            self._dispatcher.backpressure.close(self._refusal(), actors_allowed=not frozen)
            self._stopper = Greenlet.spawn(self._stop, frozen)

    def _stop(self, frozen: bool) -> None:
        try:
            self._come_to_an_end(frozen)
        finally:
            self._let_go()

    def _come_to_an_end(self, frozen: bool) -> None:
        """Have everything handled that was accepted, and end all actors."""
        closer, timeout, joined = self._closer, self.options.drain_timeout, self._joined
        deadline = self._clock.monotonic() + timeout
        if joined is not None and not frozen:
            joined.leave("the host stops")
            if joined.has_lease:
                closer.hand_over()
        if not frozen and not closer.drain(timeout, self._refusal()):
            safely(
                log.warning,
                "host %s: accepted messages were not all handled within %g s",
                self.host_id,
                timeout,
                extra=fields(self.host_id),
            )
        self._schedules.finish(0.0 if frozen else deadline - self._clock.monotonic())
        ended = closer.shut_down(timeout, self._refusal())
        if not ended:
            safely(
                log.warning,
                "host %s: not all actors ended within %g s",
                self.host_id,
                timeout,
                extra=fields(self.host_id),
            )
        self._states.go("stopped")
        closer.force(self._refusal())

    def _let_go(self) -> None:
        if self.state != "stopped":
            self._states.go("stopped")
        if self._joined is not None:
            self._joined.stop(self._refusal())
        self._closer.finish()
        self._admin.close()
        self._watchdog.stop()
        self._dispatcher.backpressure.close(self._refusal(), actors_allowed=False)
        forking.forget(self)

    def disown(self) -> None:
        """In a child that was forked from the host's process: end this copy, and leave the original alone."""
        what = f"host {self.host_id} belongs to the process that this one was forked from"
        self._states.abandon()
        self._schedules.abandon()
        self._registry.stop()
        self._closer.fence_all(HostNotRunning(f"{what}: start a host of its own after the fork"))
        if self._joined is not None:
            self._joined.abandon()
        self._admin.abandon()
        self._watchdog.stop()

    def _lease_lost(self) -> None:
        """The lease has ended, and `on_lease_lost` is `drain`."""
        self._stopped_by = HostFrozen(f"the lease of host {self.host_id} has ended, and on_lease_lost is 'drain'")
        self._begin_stop()

    def _panic(self, error: BaseException) -> None:
        """A receiver raised and `panic_recovery` is off."""
        if self.state == "active":
            safely(
                log.critical,
                "host %s stops: a receiver raised and panic_recovery is off",
                self.host_id,
                extra=fields(self.host_id),
            )
            self._stopped_by = error
            self._begin_stop()


__all__ = ["Host", "Receiver"]
