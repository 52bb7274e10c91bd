"""Nothing leaves a host once its lease has ended, whatever its handlers were at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.cluster_support import Cluster, users_only
from tests.support import until
from theatre_gevent import Context, HostFrozen, Ref, RemoteActorError


class Ended:
    """A lease that has ended while somebody was not looking."""

    lease_until = 0.0


def test_a_handler_that_slept_through_the_end_of_the_lease_reaches_nobody() -> None:
    """As after a pause of the process: it goes on where it was, before any turn begins and anybody looks."""
    outcomes: list[str] = []

    with Cluster("ab", request_timeout=3.0) as cluster:
        a, b = cluster["a"], cluster["b"]
        elsewhere = cluster.ref("a")

        def outlive(ctx: Context) -> None:
            lapses: list[str] = []
            verbs: dict[str, Callable[[], object]] = {
                "send": lambda: ctx.send(elsewhere, "late"),
                "request": lambda: ctx.request(elsewhere, "late", 1.0),
                "reply": lambda: ctx.reply("late"),
            }
            for name, act in verbs.items():
                b._dispatcher.lease = Ended()
                b._dispatcher.on_lapse = lambda: lapses.append("noticed")
                try:
                    act()
                except HostFrozen:
                    outcomes.append(name)
            assert lapses == ["noticed"] * 3
            raise ZeroDivisionError("the end")

        for host in (a, b):
            host.register_actor("late", users_only(outlive))
        ref = next(ref for n in range(50) if b.ring_owner(ref := Ref("late", str(n))) == "b")
        with pytest.raises(RemoteActorError, match="the end"):
            a.request(ref, "go")
        assert outcomes == ["send", "request", "reply"]
        a.request(elsewhere, "in time")
        until(lambda: cluster.actors.at(elsewhere) == ["in time"])
