"""Who is asked: forms of a cluster, members that change, hosts that refuse, and what follows."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.integration.cluster_support import Cluster, router_of
from tests.support import assert_balanced, in_background, until
from theatre_gevent import (
    Host,
    HostDraining,
    HostFrozen,
    HostNotRunning,
    InvalidOption,
    NoOwner,
    Ref,
    RequestTimeout,
)
from theatre_gevent.cluster.membership import RingOnlyCluster
from theatre_gevent.cluster.transport import Transport
from theatre_gevent.logic import routing


def counts(host: Host) -> dict[str, int]:
    return host.metrics.snapshot()


# -- forms -------------------------------------------------------------------------------------------------------


SECRET = "of all hosts"  # noqa: S105


def echo(ctx: Any) -> None:
    if isinstance(ctx.message, (str, int)):
        ctx.reply(ctx.message)


def there(host: Host) -> Ref:
    """Return a ref that belongs to another host."""
    return next(ref for ref in (Ref("x", str(n)) for n in range(1000)) if host.ring_owner(ref) != host.host_id)


def test_the_short_form_with_peers_given_at_once() -> None:
    with Host(host_id="a", listen="127.0.0.1:0", secret=SECRET) as first:
        first.register_actor("x", echo)
        with Host(host_id="b", listen="127.0.0.1:0", peers={"a": str(first.address)}, secret=SECRET) as second:
            second.register_actor("x", echo)
            first.set_peers({"b": str(second.address), "a": str(first.address)})
            assert first.request(there(first), "to b") == "to b"
            assert second.request(there(second), "to a") == "to a"
            assert first.ring_owner(there(first)) == "b"
        assert_balanced(second.metrics)
    assert_balanced(first.metrics)


def test_the_long_form() -> None:
    transports = {name: Transport(name, "127.0.0.1:0", epoch=3) for name in "ab"}
    clusters = {name: RingOnlyCluster(name, epoch=3) for name in "ab"}
    hosts = {}
    for name in "ab":
        host = hosts[name] = Host(host_id=name)
        host.register_actor("x", echo)
        host.set_transport(transports[name])
        host.set_cluster(clusters[name])
        host.start()
    addresses = {name: transports[name].addr for name in "ab"}
    for cluster in clusters.values():
        cluster.set_hosts(addresses)
    assert clusters["a"].ring.members == ("a", "b")
    assert hosts["a"].address == addresses["a"]
    assert clusters["a"].hosts == addresses
    for host in hosts.values():
        assert host.request(there(host), "across") == "across"
    for host in hosts.values():
        host.stop()
        assert_balanced(host.metrics)


def test_the_long_form_with_members_set_before_the_start() -> None:
    with Host(host_id="b", listen="127.0.0.1:0") as other:
        other.register_actor("x", echo)
        host = Host(host_id="a")
        host.register_actor("x", echo)
        cluster = RingOnlyCluster("a")
        cluster.set_hosts({"b": str(other.address)})
        cluster.ring.set(["b"])
        host.set_transport(Transport("a"))
        host.set_cluster(cluster)
        with host:
            other.set_peers({"a": str(host.address)})
            assert cluster.ring.members == ("b",), "the ring that was set stays"
            refs = [ref for ref in (Ref("x", str(n)) for n in range(100)) if other.ring_owner(ref) == "b"]
            assert [host.request(ref, 1) for ref in refs] == [1] * len(refs)
            assert counts(host)["actors_active"] == 0


def test_a_transport_alone_takes_the_members_by_set_peers() -> None:
    host = Host(host_id="a", peers=None)
    host.set_transport(Transport("a"))
    with host:
        assert host.address is not None
        host.set_peers({"b": "127.0.0.1:1"})
        assert {host.ring_owner(Ref("x", str(n))) for n in range(100)} == {"a", "b"}


def test_parts_that_do_not_fit_together_are_refused() -> None:
    host = Host(host_id="a")
    with pytest.raises(InvalidOption, match="'b'"):
        host.set_cluster(RingOnlyCluster("b"))
    with pytest.raises(InvalidOption, match="'b'"):
        host.set_transport(Transport("b"))
    host.set_transport(Transport("a", epoch=1))
    host.set_cluster(RingOnlyCluster("a", epoch=2))
    with pytest.raises(InvalidOption, match="epoch"):
        host.start()
    with pytest.raises(InvalidOption, match="the cluster's address"):
        RingOnlyCluster("a", "nowhere")
    with Host(host_id="c", listen="127.0.0.1:0") as running:
        with pytest.raises(HostNotRunning, match="active"):
            running.set_transport(Transport("c"))
        with pytest.raises(HostNotRunning, match="active"):
            running.set_cluster(RingOnlyCluster("c"))
        for peers in ({"b": "nowhere"}, {"b": "127.0.0.1:1", "d": "127.0.0.1:1"}, {"": "127.0.0.1:1"}):
            with pytest.raises(InvalidOption):
                running.set_peers(peers)
        assert running.ring_owner(Ref("x", "1")) == "c", "nothing has changed"


def test_a_cluster_without_a_transport_is_refused() -> None:
    host = Host(host_id="a")
    host.set_cluster(RingOnlyCluster("a"))
    with pytest.raises(InvalidOption, match="listen"):
        host.start()


def test_a_host_by_itself_has_no_cluster() -> None:
    with Host(host_id="a") as host:
        assert host.address is None
        assert host.ring_owner(Ref("x", "1")) == "a"
        with pytest.raises(HostNotRunning, match="listen"):
            host.set_peers({"b": "127.0.0.1:1"})


# -- members -----------------------------------------------------------------------------------------------------


def test_an_actor_that_belongs_elsewhere_is_not_spawned_here() -> None:
    with Cluster("ab") as cluster:
        with pytest.raises(NoOwner, match="another host"):
            cluster["a"].spawn_local(cluster.ref("b"))
        cluster["a"].spawn_local(cluster.ref("a"))
        assert counts(cluster["a"])["actors_active"] == 1
        assert counts(cluster["b"])["actors_active"] == 0


def test_placements_are_remembered_and_forgotten_with_the_members() -> None:
    with Cluster("ab", placement_ttl=0.1) as cluster:
        ref = cluster.ref("b")
        for _ in range(3):
            cluster["a"].request(ref, 1)
        assert counts(cluster["a"])["placements_cached"] == 1
        gevent.sleep(0.15)
        assert cluster["a"].request(ref, 1) == 1, "it is too old: the ring is asked again"
        cluster["a"].set_peers({})
        assert counts(cluster["a"])["placements_cached"] == 0
        assert cluster["a"].request(ref, "here") == "here"
        assert cluster.actors.got[-1] == ("a", ref, "here")
        cluster["a"].set_peers({"b": str(cluster["b"].address)})


def test_requests_to_a_host_that_is_dropped_fail_at_once() -> None:
    with Cluster("ab") as cluster:
        task = in_background(cluster["a"].request, cluster.ref("b"), ("keep",))
        until(lambda: cluster.actors.contexts)
        cluster["a"].set_peers({})
        with pytest.raises(NoOwner, match="'b'"):
            task.get(timeout=5)


def disagree(cluster: Cluster) -> Ref:
    """Have host b believe in a further member; returns a ref that a takes for b's, and b for that one's."""
    cluster["b"].set_peers({"a": str(cluster["a"].address), "ghost": "127.0.0.1:1"})
    candidates = cluster.refs("b", 100, seen_by="a")
    return next(ref for ref in candidates if cluster["b"].ring_owner(ref) == "ghost")


def test_hosts_that_disagree_give_up_within_bounds() -> None:
    with Cluster("ab") as cluster:
        ref = disagree(cluster)
        with pytest.raises(NoOwner, match="5 attempts"):
            cluster["a"].request(ref, "asked")
        assert counts(cluster["a"])["messages_returned"] == 5
        cluster["a"].send(ref, {"sent": (1,)})
        until(lambda: cluster.dead["a"])
        (letter,) = cluster.dead["a"]
        assert (letter.ref, letter.message) == (ref, {"sent": (1,)})
        assert counts(cluster["a"])["messages_returned"] == 10
        assert cluster.actors.at(ref) == []
        assert counts(cluster["a"])["messages_forwarded"] == 0


def test_retries_end_with_the_requests_deadline() -> None:
    with Cluster("ab") as cluster:
        ref = disagree(cluster)
        with pytest.raises((NoOwner, RequestTimeout)):
            cluster["a"].request(ref, "asked", timeout=0.05)
        assert 1 <= counts(cluster["a"])["messages_returned"] < 5
        assert router_of(cluster["a"]).pending == {}
        until(lambda: counts(cluster["a"])["messages_sent"] == 0)


def test_hosts_that_agree_again_in_time_handle_it_once() -> None:
    with Cluster("ab") as cluster:
        ref = disagree(cluster)
        task = in_background(cluster["a"].request, ref, "asked")
        cluster["a"].send(ref, "sent")
        until(lambda: counts(cluster["a"])["messages_returned"] >= 4)
        cluster.balanced()  # also while they wait for the next attempt
        cluster["b"].set_peers({"a": str(cluster["a"].address)})
        assert task.get(timeout=5) == "asked"
        until(lambda: len(cluster.actors.got) == 2)
        assert sorted(cluster.actors.at(ref)) == ["asked", "sent"]
        assert cluster.actors.hosts_of(ref) == {"b"}
        assert cluster.dead["a"] == []


def test_what_comes_back_is_not_overtaken_by_what_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "RETRY_DELAYS", (0.0, 3.0))
    with Cluster("ab") as cluster:
        a, ref = cluster["a"], disagree(cluster)
        a.send(ref, 1)
        a.send(ref, 2)
        until(lambda: counts(a)["messages_returned"] >= 4)
        cluster["b"].set_peers({"a": str(a.address)})  # from now on it would take what is sent
        a.send(ref, 3)
        task = in_background(a.request, ref, 4, 10.0)
        until(lambda: counts(a)["messages_held"] == 4)
        a.send(ref, 5)
        assert task.get(timeout=10) == 4
        until(lambda: len(cluster.actors.got) == 5)
        assert cluster.actors.at(ref) == [1, 2, 3, 4, 5]
        assert counts(a)["messages_held"] == 0


def test_what_comes_back_may_belong_here_by_now() -> None:
    with Cluster("ab") as cluster:
        ref = disagree(cluster)
        task = in_background(cluster["a"].request, ref, "asked")
        cluster["a"].send(ref, "sent")
        until(lambda: counts(cluster["a"])["messages_returned"] >= 4)
        cluster["a"].set_peers({})
        assert task.get(timeout=5) == "asked"
        until(lambda: len(cluster.actors.got) == 2)
        assert cluster.actors.hosts_of(ref) == {"a"}
        assert counts(cluster["a"])["requests_total"] == 1
        assert counts(cluster["a"])["messages_forwarded"] == 0


# -- hosts that refuse -------------------------------------------------------------------------------------------


def test_a_frozen_host_refuses_and_its_messages_come_back() -> None:
    with Cluster("ab") as cluster:
        ref = cluster.ref("b")
        cluster["a"].request(ref, "before")
        cluster["b"].freeze()
        with pytest.raises(HostFrozen, match="b is frozen"):
            cluster["a"].request(ref, "asked")
        with pytest.raises((HostFrozen, RequestTimeout)):
            cluster["a"].request(ref, "asked", timeout=0.05)
        cluster["a"].send(ref, "sent")
        until(lambda: cluster.dead["a"])
        (letter,) = cluster.dead["a"]
        assert letter.message == "sent"
        assert "frozen" in letter.reason
        cluster["b"].unfreeze()
        assert cluster["a"].request(ref, "after") == "after"
        assert cluster.actors.at(ref) == ["before", "after"]


def test_a_host_that_unfreezes_in_time_handles_it_once() -> None:
    with Cluster("ab") as cluster:
        ref = cluster.ref("b")
        cluster["b"].freeze()
        task = in_background(cluster["a"].request, ref, "asked")
        cluster["a"].send(ref, "sent")
        until(lambda: counts(cluster["a"])["messages_returned"] >= 4)
        cluster["b"].unfreeze()
        assert task.get(timeout=5) == "asked"
        until(lambda: len(cluster.actors.got) == 2)
        assert sorted(cluster.actors.at(ref)) == ["asked", "sent"]


def test_a_host_that_freezes_fails_its_own_requests_and_those_it_has() -> None:
    with Cluster("ab", freeze_grace_period=0.1) as cluster:
        held, mine = cluster.ref("b"), cluster.ref("a")
        asked = in_background(cluster["a"].request, held, ("hold",))
        asking = in_background(cluster["b"].request, mine, ("keep",))
        until(lambda: cluster.actors.holding and cluster.actors.contexts)
        cluster["b"].freeze()
        with pytest.raises(HostFrozen):
            asking.get(timeout=5)
        with pytest.raises(NoOwner):  # its handler may have begun: it is not asked again
            asked.get(timeout=5)
        cluster["b"].unfreeze()
        cluster.actors.contexts[0].reply("late")
        until(lambda: counts(cluster["b"])["replies_late"] == 1)


def test_a_frozen_host_asks_and_sends_nothing() -> None:
    with Cluster("ab") as cluster:
        cluster["a"].freeze()
        for ref in (cluster.ref("a"), cluster.ref("b")):
            with pytest.raises(HostFrozen):
                cluster["a"].request(ref, 1)
            with pytest.raises(HostFrozen):
                cluster["a"].send(ref, 1)
        assert cluster.actors.got == []


def test_what_comes_back_while_a_host_stops_is_a_dead_letter_before_it_has() -> None:
    with Cluster("ab") as cluster:
        a, ref = cluster["a"], cluster.ref("b")
        a.request(ref, "before")
        cluster["b"].freeze()
        for number in range(20):
            a.send(ref, number)
        a.freeze()
        a.stop()
        metrics = counts(a)
        assert (metrics["messages_held"], metrics["messages_forwarded"]) == (0, 1)
        assert [letter.message for letter in cluster.dead["a"]] == list(range(20))
        cluster["b"].unfreeze()


def test_a_draining_host_refuses_what_is_new_and_answers_what_it_has() -> None:
    with Cluster("ab", drain_timeout=20) as cluster:
        held, other = cluster.refs("b", 2)
        asked = in_background(cluster["a"].request, held, ("hold",))
        until(lambda: cluster.actors.holding)
        stop = in_background(cluster["b"].stop)
        until(lambda: cluster["b"].state == "draining")
        with pytest.raises(HostDraining):
            cluster["a"].request(other, "asked")
        cluster["a"].send(other, "sent")
        until(lambda: cluster.dead["a"])
        assert cluster.dead["a"][0].message == "sent"
        cluster.actors.gate.set()
        assert asked.get(timeout=5) == "held"
        stop.get(timeout=10)
        assert cluster.actors.at(other) == []
        with pytest.raises((NoOwner, RequestTimeout)):
            cluster["a"].request(other, "to nobody", timeout=0.2)
        cluster["a"].send(other, "to nobody")
        until(lambda: cluster.dead["a"][1:])
        assert cluster.dead["a"][1].message == "to nobody"


def test_a_draining_host_may_still_ask_others() -> None:
    with Cluster("ab", drain_timeout=20) as cluster:
        mine, theirs = cluster.ref("b"), cluster.ref("a")
        asked = in_background(cluster["a"].request, mine, ("relay", theirs, ("hold",), 10))
        until(lambda: cluster.actors.holding)
        stop = in_background(cluster["b"].stop)
        until(lambda: cluster["b"].state == "draining")
        cluster.actors.gate.set()
        assert asked.get(timeout=5) == "held"
        stop.get(timeout=10)


def test_a_draining_host_waits_for_replies_that_its_actors_owe_to_others() -> None:
    with Cluster("ab", drain_timeout=20) as cluster:
        asked = in_background(cluster["a"].request, cluster.ref("b"), ("keep",))
        until(lambda: cluster.actors.contexts)
        stop = in_background(cluster["b"].stop)
        until(lambda: cluster["b"].state == "draining")
        gevent.sleep(0.1)
        cluster.actors.contexts[0].reply("in time")
        assert asked.get(timeout=5) == "in time"
        stop.get(timeout=10)


def test_a_stopped_host_sends_and_asks_nobody() -> None:
    with Cluster("ab") as cluster:
        cluster["a"].stop()
        for ref in (cluster.ref("a"), cluster.ref("b")):
            with pytest.raises(HostDraining):
                cluster["a"].request(ref, 1)
            with pytest.raises(HostDraining):
                cluster["a"].send(ref, 1)
        assert cluster.dead["a"] == []


# -- lives -------------------------------------------------------------------------------------------------------


def test_replies_to_an_earlier_life_reach_nobody() -> None:
    with Cluster("ab") as cluster:
        first, second = cluster.refs("b", 2)
        old = cluster["a"]
        with pytest.raises(RequestTimeout):
            old.request(first, ("keep",), timeout=0.2)
        old.stop()
        router = router_of(old)
        fresh = cluster.hosts["a"] = cluster.make("a", listen=str(old.address)).start()
        cluster.acquaint()
        assert router_of(fresh).cluster.epoch > router.cluster.epoch
        task = in_background(fresh.request, second, ("keep",))
        until(lambda: len(cluster.actors.contexts) == 2)
        assert list(router_of(fresh).pending) == [router._seq], "both have the same number"
        cluster.actors.contexts[0].reply("for the earlier life")
        gevent.sleep(0.05)
        assert not task.ready()
        cluster.actors.contexts[1].reply("for this life")
        assert task.get(timeout=5) == "for this life"
        old.stop()
        assert_balanced(old.metrics)
        cluster.lossy = True  # what the earlier life sent is in its own books
