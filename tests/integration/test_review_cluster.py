"""What a second reading of routing found."""

from __future__ import annotations

import gevent
import msgspec
import pytest

from tests.integration.cluster_support import Cluster, router_of, transport_of
from tests.support import assert_balanced, in_background, until
from theatre_gevent import NoOwner, RequestTimeout, UnregisteredActorType, message
from theatre_gevent.core.context import make_context


def test_requests_from_afar_that_are_never_answered_do_not_pile_up() -> None:
    with Cluster("ab", idle_timeout=0.3, cleanup_interval=0.1) as cluster:
        ref = cluster.ref("b")
        for _ in range(3):
            with pytest.raises(RequestTimeout):
                cluster["a"].request(ref, ("keep",), timeout=0.05)
        lifecycle = cluster["b"]._dispatcher.lifecycle
        until(lambda: cluster["b"].metrics.snapshot()["actors_active"] == 0, 5)
        assert lifecycle.deferred._requests == {}


def test_the_answer_that_comes_after_the_asker_has_given_up_is_late() -> None:
    with Cluster("ab") as cluster:
        ref = cluster.ref("b")
        with pytest.raises(RequestTimeout):
            cluster["a"].request(ref, ("keep",), timeout=0.05)
        (ctx,) = cluster.actors.contexts
        until(lambda: not ctx.is_request, 5)
        ctx.reply("too late")
        assert cluster["b"].metrics.snapshot()["replies_late"] == 1


def test_a_request_that_comes_back_to_a_host_without_its_type_is_taken_back_once() -> None:
    with Cluster("ab") as cluster:
        cluster["b"].register_actor("only b", cluster.actors.on("b"))
        ref = cluster.ref("b", "only b")
        assert cluster["a"].request(ref, 1) == 1
        cluster["b"].freeze()
        asked = in_background(cluster["a"].request, ref, 2)
        until(lambda: cluster["a"].metrics.snapshot()["messages_returned"] == 4)  # 0.3 s to the last attempt
        cluster["a"].set_peers({})
        with pytest.raises(UnregisteredActorType):
            asked.get(timeout=5)
        cluster.balanced()
        counts = cluster["a"].metrics.snapshot()
        assert counts["messages_forwarded"] == 1
        cluster["b"].unfreeze()


def test_a_request_that_comes_back_to_a_full_inbox_is_counted_once() -> None:
    with Cluster("ab", own={"a": {"actor_inbox_size": 1}}) as cluster:
        a, ref = cluster["a"], cluster.ref("b")
        cluster["b"].freeze()
        asked = in_background(a.request, ref, 2)
        until(lambda: a.metrics.snapshot()["messages_returned"] == 4)  # 0.3 s to the last attempt
        a.set_peers({})
        # Its own messages would wait behind the request; those that another host sends it would not.
        activation = a._dispatcher.registry.activate(ref)
        assert a._dispatcher.deliver(activation, make_context(activation, ("hold",), None))
        until(lambda: cluster.actors.holding)
        assert a._dispatcher.deliver(activation, make_context(activation, 1, None))
        until(lambda: a.metrics.snapshot()["senders_waiting"] == 1)
        cluster.balanced()
        cluster.actors.gate.set()
        assert asked.get(timeout=5) == 2
        counts = a.metrics.snapshot()
        assert (counts["requests_total"], counts["messages_sent"]) == (1, 3)
        cluster["b"].unfreeze()


def test_what_stood_in_line_when_the_host_froze_is_tried_again() -> None:
    with Cluster("ab", own={"b": {"actor_inbox_size": 1, "freeze_grace_period": 0.05}}) as cluster:
        a, b, ref = cluster["a"], cluster["b"], cluster.ref("b")
        a.send(ref, ("hold",))
        until(lambda: cluster.actors.holding)
        a.send(ref, "queued")
        asked = in_background(a.request, ref, "in line")
        until(lambda: b.metrics.snapshot()["senders_waiting"] == 1)
        b.freeze()
        b.unfreeze()
        assert asked.get(timeout=5) == "in line"
        assert a.metrics.snapshot()["messages_returned"] >= 1


def test_what_can_not_be_given_back_is_a_dead_letter_here() -> None:
    with Cluster("ab", own={"b": {"actor_inbox_size": 1, "request_timeout": 0.5}}) as cluster:
        cluster.lossy = True
        a, b, ref = cluster["a"], cluster["b"], cluster.ref("b")
        a.send(ref, ("hold",))
        until(lambda: cluster.actors.holding)
        a.send(ref, "queued")
        a.send(ref, "in line")
        until(lambda: b.metrics.snapshot()["senders_waiting"] == 1)
        a.stop()
        until(lambda: not transport_of(b).inlets())
        until(lambda: b.metrics.snapshot()["senders_waiting"] == 0)
        until(lambda: [letter.message for letter in cluster.dead["b"]] == ["in line"], 3)


made: list[object] = []


@message("tests.review.fickle")
class Fickle(msgspec.Struct):
    """Can be made twice."""

    number: int

    def __post_init__(self) -> None:
        made.append(self.number)
        if len(made) == 3:
            raise ValueError("not again")


def test_what_comes_back_and_can_not_be_made_here_is_a_dead_letter() -> None:
    with Cluster("ab", own={"b": {"actor_inbox_size": 1, "request_timeout": 0.1}}) as cluster:
        a, b, ref = cluster["a"], cluster["b"], cluster.ref("b")
        a.send(ref, ("hold",))
        until(lambda: cluster.actors.holding)
        a.send(ref, "queued")
        made.clear()
        a.send(ref, Fickle(1))  # made here, there, and not again
        until(lambda: b.metrics.snapshot()["inbox_full"] == 1)
        until(lambda: len(cluster.dead["a"]) == 1, 3)
        assert "not again" in cluster.dead["a"][0].reason
        assert_balanced(a.metrics)


def test_a_retry_that_a_frozen_host_refuses_leaves_no_activation() -> None:
    with Cluster("ab") as cluster:
        a, b, ref = cluster["a"], cluster["b"], cluster.ref("b")
        b.freeze()
        a.send(ref, "one")
        until(lambda: a.metrics.snapshot()["messages_returned"] == 4)  # 0.3 s to the last attempt
        a.set_peers({})
        a.freeze()
        until(lambda: cluster.dead["a"])
        assert ref not in a._registry.actors
        cluster.balanced()
        a.unfreeze()
        b.unfreeze()


def test_a_handler_that_is_killed_by_force_answers_who_asked_from_afar() -> None:
    with Cluster("ab", own={"b": {"freeze_grace_period": 0.05}}) as cluster:
        a, b, ref = cluster["a"], cluster["b"], cluster.ref("b")
        held = in_background(a.request, ref, ("hold",))
        kept = in_background(a.request, cluster.refs("b", 2)[1], ("keep",))
        until(lambda: cluster.actors.holding and cluster.actors.contexts)
        b.freeze()
        for asked in (held, kept):
            with pytest.raises(NoOwner, match="gave the request up"):
                asked.get(timeout=3)
        b.unfreeze()


def test_an_answer_that_can_not_travel_and_then_one_that_can_from_a_native_thread() -> None:
    with Cluster("ab") as cluster:
        asked = in_background(cluster["a"].request, cluster.ref("b"), ("keep",))
        until(lambda: cluster.actors.contexts)
        (ctx,) = cluster.actors.contexts
        pool = gevent.get_hub().threadpool
        with pytest.raises(Exception, match="object"):
            pool.spawn(ctx.reply, object()).get(timeout=5)
        pool.spawn(ctx.reply, "from a thread").get(timeout=5)
        assert asked.get(timeout=5) == "from a thread"
        assert router_of(cluster["a"]).pending == {}
