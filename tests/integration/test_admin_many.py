"""A host with very many actors: the admin server neither stops its hub nor builds large answers."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.integration.admin_support import ask
from tests.support import in_background, until
from theatre_gevent import Host, Ref, Schedule, inspection
from theatre_gevent.core.activation import ACTIVE, Activation
from theatre_gevent.logic.paging import MAX_LIMIT
from theatre_gevent.scheduling.delivery import Entry
from theatre_gevent.scheduling.memory import MemorySchedules
from theatre_gevent.testing import TestCluster

COUNT = 300_000


@pytest.fixture(scope="module")
def crowd() -> dict[Ref, Activation]:
    """Activations as they are when idle; a third of a million real ones would take the whole time of the test."""
    with Host() as host:
        host.register_actor("x", lambda ctx: None)
        actor_type = host._registry.types["x"]
    actors = {}
    for number in range(COUNT):
        ref = Ref("x", f"actor-{number}")
        actors[ref] = activation = Activation(ref, actor_type)
        activation.state = ACTIVE
    return actors


def test_pages_of_a_crowd_let_others_run(crowd: dict[Ref, Activation]) -> None:
    with Host(admin_addr="127.0.0.1:0") as host:
        host.register_actor("y", lambda ctx: ctx.reply("here"))
        host._registry.actors.update(crowd)
        answered = 0
        asking = in_background(ask, host, f"/cluster/actors?limit={MAX_LIMIT}&prefix=actor-1")
        while not asking.ready():
            assert host.request(Ref("y", "1"), "are you there") == "here"
            answered += 1
            gevent.sleep(0.0001)
        page = asking.get()
        # A slice is 2 000 actors and the hub looks around after 8 of them, and in between the test has its turn.
        assert answered >= COUNT / 2000 / 8 / 2
        assert page.status == 200
        expected = sorted(ref.id for ref in crowd if ref.id.startswith("actor-1"))
        assert [entry["id"] for entry in page.data["actors"]] == expected[:MAX_LIMIT]
        assert page.data["total"] == len(expected)
        assert len(page.text) < 400_000
        second = ask(host, "/cluster/actors", limit=3, prefix="actor-1", after=page.data["next"])
        assert [entry["id"] for entry in second.data["actors"]] == expected[MAX_LIMIT : MAX_LIMIT + 3]
        for ref in crowd:
            del host._registry.actors[ref]
        empty = ask(host, "/cluster/actors", type="x")
        assert empty.data["actors"] == []


def test_actors_that_left_meanwhile_are_left_out(crowd: dict[Ref, Activation]) -> None:
    with Host(admin_addr="127.0.0.1:0") as host:
        host._registry.actors.update(crowd)
        assert ask(host, "/cluster/actors", limit=1).data["actors"][0]["id"] == "actor-0"
        host._registry.actors.clear()
        page = ask(host, "/cluster/actors", limit=1).data
        assert page["actors"] == []


def test_a_short_list_is_always_a_fresh_one() -> None:
    with Host(admin_addr="127.0.0.1:0") as host:
        host.register_actor("y", lambda ctx: None)
        for number in range(3):
            host.spawn_local(Ref("y", str(number)))
            assert ask(host, "/cluster/actors").data["total"] == number + 1
        until(lambda: host.metrics.snapshot()["actors_active"] == 3)


def test_of_many_schedules_only_those_shown_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of all of them would be made in one go, and hold up everything else meanwhile."""
    with Host(admin_addr="127.0.0.1:0") as host:
        host.register_actor("x", lambda ctx: None)
        for number in range(20_000):
            host.send_after(Ref("x", "1"), number, 3600 + number * 7919 % 20_000)
        everything = sorted(host.schedules(), key=lambda schedule: schedule.due)
        shown: list[object] = []
        show = MemorySchedules._show

        def count(self: MemorySchedules, entry: Entry, ahead: float) -> Schedule:
            shown.append(entry)
            return show(self, entry, ahead)

        monkeypatch.setattr(MemorySchedules, "_show", count)
        for path in ("/cluster/schedules", "/cluster/all-schedules"):
            shown.clear()
            page = ask(host, path, limit=100).data
            assert len(shown) == 100
            assert page["total"] == 20_000
            assert [entry["id"] for entry in page["schedules"]] == [schedule.id for schedule in everything[:100]]


def test_paging_shows_all_that_stay_though_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large host answers from a list that is some seconds old: those that have left since shorten its pages."""
    monkeypatch.setattr(inspection, "_MANY", 100)
    with TestCluster(2, admin_addr="127.0.0.1:0", idle_timeout=600) as hosts:
        hosts.register_actor("x", lambda ctx: ctx.reply(1) if ctx.message == "?" else None)
        refs = [Ref("x", f"{number:03}") for number in range(500)]
        for ref in refs:
            hosts[0].request(ref, "?")
        first = ask(hosts[0], "/cluster/all-actors", limit=20).data
        assert [entry["id"] for entry in first["actors"]] == [ref.id for ref in refs[:20]]
        gone = {ref for ref in refs[:100] if hosts[0].ring_owner(ref) == "host-1"}
        for ref in gone:
            del hosts[0]._registry.actors[ref]
        shown: list[str] = []
        after: dict[str, Any] = {}
        while True:
            page = ask(hosts[0], "/cluster/all-actors", limit=20, **after).data
            shown += [entry["id"] for entry in page["actors"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert shown == [ref.id for ref in refs if ref not in gone]
