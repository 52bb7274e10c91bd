"""Claims and releases against a real server: who gets an actor when several want it, and when answers get lost."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.integration.postgres_support import Cluster, Proxy, cluster, heard, proxy, refs
from tests.support import in_background, until
from theatre_gevent import AnswerLost, DatabaseUnavailable, InitReason, Ref
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.green import connect
from theatre_gevent.cluster.store import Claimed, HostFenced, Life

__all__ = ["cluster", "proxy"]

NEW, REACTIVATION, FAILOVER = InitReason.NEW, InitReason.REACTIVATION, InitReason.FAILOVER
REF = Ref("player", "1")


def mine(reason: InitReason, *which: Ref) -> Claimed:
    return Claimed(dict.fromkeys(which or (REF,), reason), {}, {})


def foreign(life: Life, *which: Ref) -> Claimed:
    return Claimed({}, dict.fromkeys(which or (REF,), life), {})


# -- who gets what ---------------------------------------------------------------------------------------------


def test_the_three_reasons(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    assert postgres.claim(cluster.admin, a, 1, [REF]) == mine(NEW)
    assert cluster.row(REF) == ("a", a.epoch, 1, 1)
    assert postgres.claim(cluster.admin, a, 2, [REF]) == mine(REACTIVATION)
    assert cluster.row(REF) == ("a", a.epoch, 2, 2)
    assert postgres.claim(cluster.admin, b, 7, [REF]) == foreign(a)
    assert cluster.row(REF) == ("a", a.epoch, 2, 2)
    assert postgres.fence_self(cluster.admin, a)
    assert postgres.claim(cluster.admin, b, 8, [REF]) == mine(FAILOVER)
    assert cluster.row(REF) == ("b", b.epoch, 8, 3)
    assert postgres.release(cluster.admin, b, 8, [REF]) == 1
    assert postgres.claim(cluster.admin, b, 9, [REF]) == mine(NEW)


def test_a_life_without_a_row_is_over(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 1, [REF])
    cluster.admin.run("DELETE FROM hosts WHERE host_id = 'a'")
    assert postgres.claim(cluster.admin, b, 1, [REF]) == mine(FAILOVER)


def test_an_earlier_life_of_the_same_host_is_another_owner_until_it_is_over(cluster: Cluster) -> None:
    first, second = cluster.life("a"), cluster.life("a")
    postgres.claim(cluster.admin, first, 1, [REF])
    assert postgres.claim(cluster.admin, second, 1, [REF]) == foreign(first)
    third = cluster.life("a", previous_epoch=first.epoch)
    assert postgres.claim(cluster.admin, third, 1, [REF]) == mine(FAILOVER)


def test_one_claim_may_meet_everything_at_once(cluster: Cluster) -> None:
    a, b, dead = cluster.life("a"), cluster.life("b"), cluster.life("dead")
    new, own, other, orphan, nul = (Ref("player", text) for text in ("new", "own", "other", "orphan", "nul\0"))
    postgres.claim(cluster.admin, dead, 1, [orphan])
    postgres.claim(cluster.admin, a, 1, [own])
    postgres.claim(cluster.admin, b, 1, [other])
    postgres.fence_self(cluster.admin, dead)
    asked = [new, own, other, orphan, nul]
    random.Random(4).shuffle(asked)
    claimed = postgres.claim(cluster.admin, a, 2, asked)
    assert claimed.mine == {new: NEW, own: REACTIVATION, orphan: FAILOVER}
    assert claimed.foreign == {other: b}
    assert list(claimed.refused) == [nul]


def test_who_is_fenced_claims_nothing(cluster: Cluster) -> None:
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    postgres.fence_self(cluster.admin, a)
    for asked in ([REF], [Ref("player", "2")], [REF, Ref("player", "2")]):
        with pytest.raises(HostFenced, match=rf"epoch {a.epoch} of host a is over"):
            postgres.claim(cluster.admin, a, 2, asked)
    assert cluster.row(Ref("player", "2")) is None
    assert cluster.row(REF) == ("a", a.epoch, 1, 1)


def test_a_life_that_was_never_registered_claims_nothing(cluster: Cluster) -> None:
    with pytest.raises(HostFenced):
        postgres.claim(cluster.admin, Life("nobody", 4711), 1, [REF])


def test_nothing_is_asked_for_nothing(cluster: Cluster) -> None:
    assert postgres.claim(cluster.admin, cluster.life("a"), 1, []) == Claimed({}, {}, {})


def test_a_ref_that_is_asked_for_twice_is_claimed_once(cluster: Cluster) -> None:
    a = cluster.life("a")
    assert postgres.claim(cluster.admin, a, 1, [REF, REF, REF]) == mine(NEW)
    assert postgres.claim(cluster.admin, a, 2, [REF, REF, Ref("player", "2")]).mine == {
        REF: REACTIVATION,
        Ref("player", "2"): NEW,
    }


TEXTS = [
    *(
        "ü",
        "日本語",
        "𝄞",
        "\U0010ffff",
        "a\u0301",
        "\u00e1",
        "\u200b",
        "\ufeff",
        "\ufffd",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
    ),
    *('"', "'", "\\", "\\\\", '\\"', "{}", "{a,b}", ",", "NULL", "null", "%s", "%(a)s", "$1", "E'\\x'", "\x01", "\x7f"),
]


def test_any_text_names_an_actor_and_no_two_are_the_same(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    named = [Ref(kind, text) for text in TEXTS for kind in ("player", "ü'\"\\")] + [Ref(text, "1") for text in TEXTS]
    assert postgres.claim(cluster.admin, a, 1, named) == mine(NEW, *named)
    assert postgres.claim(cluster.admin, b, 1, named) == foreign(a, *named)
    assert {ref: (one.owner, one.alive, one.claim) for ref, one in postgres.owners(cluster.admin, named).items()} == (
        dict.fromkeys(named, (a, True, 1))
    )
    assert postgres.release(cluster.admin, a, 1, named) == len(named)


def test_a_ref_that_no_row_can_hold_is_refused_alone(cluster: Cluster) -> None:
    a = cluster.life("a")
    most = "x" * (postgres.MAX_REF_BYTES - len("player"))
    noise = random.Random(7)
    dense = "".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range((postgres.MAX_REF_BYTES - 6) // 3))
    good = [REF, Ref("player", most), Ref("player", dense)]
    bad = [
        Ref("player", "a\0b"),
        Ref("a\0b", "1"),
        Ref("player", "\ud800"),
        Ref("player", most + "x"),
        Ref(most, "üüü1"),
    ]
    claimed = postgres.claim(cluster.admin, a, 1, [bad[0], good[0], *bad[1:], *good[1:]])
    assert claimed.mine == dict.fromkeys(good, NEW)
    assert list(claimed.refused) == bad
    for ref, words in zip(bad, ("NUL", "NUL", "surrogate", "2601 bytes", "bytes, and 2600"), strict=True):
        assert words in claimed.refused[ref]
    assert "'a\\x00b'" in claimed.refused[bad[0]], "it says which"
    assert postgres.owners(cluster.admin, [*bad, REF]).keys() == {REF}
    assert postgres.release(cluster.admin, a, 1, [*bad, *good]) == len(good)


# -- several at once -------------------------------------------------------------------------------------------


def test_of_five_hosts_that_claim_1000_actors_each_actor_gets_one(cluster: Cluster) -> None:
    wanted = refs(1000)
    lives = [cluster.life(f"host{n}") for n in range(5)]

    connections = [cluster.connect() for _ in lives]  # before the race: one that is quick with it would win all

    def claim_all(life: Life, seed: int) -> Claimed:
        connection = connections[seed]
        order = random.Random(seed).sample(wanted, len(wanted))
        got = Claimed({}, {}, {})
        for number, start in enumerate(range(0, len(order), 50), 1):
            part = postgres.claim(connection, life, number, order[start : start + 50])
            got.mine.update(part.mine)
            got.foreign.update(part.foreign)
        return got

    tasks = [in_background(claim_all, life, seed) for seed, life in enumerate(lives)]
    answers = dict(zip(lives, (task.get() for task in tasks), strict=True))
    winners = Counter(ref for answer in answers.values() for ref in answer.mine)
    assert winners == dict.fromkeys(wanted, 1)
    winner = {ref: life for life, answer in answers.items() for ref in answer.mine}
    for life, answer in answers.items():
        assert set(answer.mine.values()) <= {NEW}
        assert answer.foreign == {ref: winner[ref] for ref in wanted if winner[ref] != life}
    assert sum(bool(answer.mine) for answer in answers.values()) > 1, "it was no race"


def test_of_five_hosts_that_take_over_1000_actors_each_actor_gets_one(cluster: Cluster) -> None:
    wanted, dead = refs(1000), cluster.life("dead")
    postgres.claim(cluster.admin, dead, 1, wanted)
    postgres.fence_self(cluster.admin, dead)
    lives = [cluster.life(f"host{n}") for n in range(5)]
    connections = [cluster.connect() for _ in lives]
    tasks = [
        in_background(postgres.claim, connection, life, 1, random.Random(seed).sample(wanted, len(wanted)))
        for seed, (life, connection) in enumerate(zip(lives, connections, strict=True))
    ]
    answers: list[Claimed] = [task.get() for task in tasks]
    assert Counter(ref for answer in answers for ref in answer.mine) == dict.fromkeys(wanted, 1)
    assert {reason for answer in answers for reason in answer.mine.values()} == {FAILOVER}
    assert all(len(answer.mine) + len(answer.foreign) == len(wanted) for answer in answers)


NAIVE_TAKEOVER = """
UPDATE actor_ownership o SET host_id = %s, epoch = %s, claim = 1, reason = 3
WHERE actor_id = %s AND NOT EXISTS (
    SELECT FROM hosts h WHERE h.host_id = o.host_id AND h.epoch = o.epoch AND h.fenced_at IS NULL
) RETURNING 1
"""


def test_a_claim_that_waited_sees_an_owner_that_registered_meanwhile(cluster: Cluster) -> None:
    """The trap of snapshots: such an owner has no row in the snapshot from before the wait, as if it were dead."""
    dead, b = cluster.life("dead"), cluster.life("b")
    postgres.claim(cluster.admin, dead, 1, [REF])
    postgres.fence_self(cluster.admin, dead)
    waiting, locking = cluster.connect(), cluster.connect()
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    task = in_background(postgres.claim, waiting, b, 1, [REF])
    cluster.until_blocked(waiting)
    late = cluster.life("late")
    locking.run("UPDATE actor_ownership SET host_id = 'late', epoch = %s, claim = 1, reason = 3", (late.epoch,))
    locking.run("COMMIT")
    assert task.get() == foreign(late)
    assert cluster.row(REF) == ("late", late.epoch, 1, 3)


def test_a_claim_of_a_single_statement_would_steal_it(cluster: Cluster) -> None:
    """Shows that the test above could fail: the same course with the claim that one would write first."""
    dead, b = cluster.life("dead"), cluster.life("b")
    postgres.claim(cluster.admin, dead, 1, [REF])
    postgres.fence_self(cluster.admin, dead)
    waiting, locking = cluster.connect(), cluster.connect()
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    task = in_background(waiting.run, NAIVE_TAKEOVER, ("b", b.epoch, REF.id))
    cluster.until_blocked(waiting)
    late = cluster.life("late")
    locking.run("UPDATE actor_ownership SET host_id = 'late', epoch = %s, claim = 1, reason = 3", (late.epoch,))
    locking.run("COMMIT")
    assert task.get() == [(1,)]


def test_a_claim_of_ones_own_actor_that_waited_sees_that_it_was_taken(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 1, [REF])
    waiting, locking = cluster.connect(), cluster.connect()
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    task = in_background(postgres.claim, waiting, a, 2, [REF])
    cluster.until_blocked(waiting)
    postgres.fence_self(cluster.admin, a)
    locking.run("UPDATE actor_ownership SET host_id = 'b', epoch = %s, claim = 1, reason = 3", (b.epoch,))
    locking.run("COMMIT")
    assert task.get() == foreign(b)


@pytest.mark.parametrize("renewed", [False, True])
def test_an_owner_that_renews_while_a_claim_waits_keeps_its_actor(cluster: Cluster, renewed: bool) -> None:
    """The owner's end is decided by the fence alone, and that waits for the renewal: so does nobody else's claim."""
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 1, [REF])
    renewing, fencing = cluster.connect(), cluster.connect()
    renewing.run("BEGIN")
    assert postgres.renew(renewing, a) == 1
    task = in_background(postgres.fence, fencing, a, 0)
    cluster.until_blocked(fencing)
    assert postgres.claim(cluster.admin, b, 1, [REF]) == foreign(a), "while all of that is undecided"
    renewing.run("COMMIT" if renewed else "ROLLBACK")
    assert task.get() is not renewed
    assert postgres.claim(cluster.admin, b, 2, [REF]) == (foreign(a) if renewed else mine(FAILOVER))


@pytest.mark.parametrize("committed", [False, True])
def test_a_claim_waits_for_another_that_inserts_the_same(cluster: Cluster, committed: bool) -> None:
    b = cluster.life("b")
    waiting, inserting = cluster.connect(), cluster.connect()
    inserting.run("BEGIN")
    late = Life("late", postgres.next_epoch(inserting))
    postgres.register(inserting, late, "127.0.0.1:1", 3.0)
    assert postgres.claim(inserting, late, 1, [REF]) == mine(NEW)
    task = in_background(postgres.claim, waiting, b, 1, [REF])
    cluster.until_blocked(waiting)
    inserting.run("COMMIT" if committed else "ROLLBACK")
    assert task.get() == (foreign(late) if committed else mine(NEW))


def test_a_claim_waits_for_a_takeover_that_is_under_way(cluster: Cluster) -> None:
    dead, b, c = cluster.life("dead"), cluster.life("b"), cluster.life("c")
    postgres.claim(cluster.admin, dead, 1, [REF])
    postgres.fence_self(cluster.admin, dead)
    waiting, taking = cluster.connect(), cluster.connect()
    taking.run("BEGIN")
    assert postgres.claim(taking, c, 1, [REF]) == mine(FAILOVER)
    task = in_background(postgres.claim, waiting, b, 1, [REF])
    cluster.until_blocked(waiting)
    taking.run("COMMIT")
    assert task.get() == foreign(c)


def test_an_actor_that_is_given_back_while_a_claim_waits_for_it_is_new(cluster: Cluster) -> None:
    """The row vanishes between two statements of the claim, which begins again."""
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    waiting, locking = cluster.connect(), cluster.connect()
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    task = in_background(postgres.claim, waiting, a, 2, [REF, Ref("player", "2")])
    cluster.until_blocked(waiting)
    assert postgres.release(locking, a, 1, [REF]) == 1
    locking.run("COMMIT")
    assert task.get().mine == {REF: NEW, Ref("player", "2"): NEW}
    assert cluster.row(REF) == ("a", a.epoch, 2, 1)


# -- giving back -----------------------------------------------------------------------------------------------


def test_a_release_leaves_what_is_not_its_own(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 1, [REF])
    assert postgres.release(cluster.admin, b, 99, [REF]) == 0
    assert postgres.release(cluster.admin, Life("a", b.epoch), 99, [REF]) == 0
    assert postgres.release(cluster.admin, a, 1, []) == 0
    assert postgres.release(cluster.admin, a, 1, [Ref("player", "2"), REF]) == 1
    assert postgres.release(cluster.admin, a, 1, [REF]) == 0


def test_a_late_release_never_removes_a_newer_claim(cluster: Cluster) -> None:
    a = cluster.life("a")
    others = refs(5, "other")
    postgres.claim(cluster.admin, a, 1, [REF, *others])
    postgres.claim(cluster.admin, a, 2, [REF])
    assert postgres.release(cluster.admin, a, 1, [REF, *others]) == len(others)
    assert cluster.row(REF) == ("a", a.epoch, 2, 2)
    assert postgres.release(cluster.admin, a, 2, [REF]) == 1


@pytest.mark.parametrize("claim_first", [False, True])
def test_release_and_newer_claim_at_the_same_moment(cluster: Cluster, claim_first: bool) -> None:
    """Both wait for the row; whoever gets it first, the newer claim is in the table at the end."""
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    claiming, releasing, locking = (cluster.connect() for _ in range(3))
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    if claim_first:
        claim = in_background(postgres.claim, claiming, a, 2, [REF])
        cluster.until_blocked(claiming)
        release = in_background(postgres.release, releasing, a, 1, [REF])
        cluster.until_blocked(releasing)
    else:
        release = in_background(postgres.release, releasing, a, 1, [REF])
        cluster.until_blocked(releasing)
        claim = in_background(postgres.claim, claiming, a, 2, [REF])
        cluster.until_blocked(claiming)
    locking.run("COMMIT")
    assert claim.get() == mine(REACTIVATION if claim_first else NEW)
    assert release.get() == (0 if claim_first else 1)
    assert cluster.row(REF) == ("a", a.epoch, 2, 2 if claim_first else 1)


def test_resigning_gives_everything_back_and_ends_the_life(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_RESIGN_READ", 100)
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 1, refs(250))
    postgres.claim(cluster.admin, b, 1, refs(3, "other"))
    listening = cluster.connect()
    postgres.listen(listening)
    assert postgres.resign(cluster.admin, a, batch=30) == 250
    assert cluster.admin.run("SELECT host_id, count(*) FROM actor_ownership GROUP BY 1") == [("b", 3)]
    assert [row.life for row in postgres.hosts(cluster.admin)] == [b]
    assert postgres.renew(cluster.admin, a) is None
    assert heard(listening) == [f"fenced {a.epoch}"]
    assert postgres.resign(cluster.admin, a) == 0, "once more does no harm"


def test_owners_tells_who_has_what(cluster: Cluster) -> None:
    a, b = cluster.life("a"), cluster.life("b")
    postgres.claim(cluster.admin, a, 4, [REF])
    postgres.claim(cluster.admin, b, 5, [Ref("player", "2")])
    postgres.fence_self(cluster.admin, b)
    found = postgres.owners(cluster.admin, [Ref("player", "3"), Ref("player", "2"), REF])
    assert {ref: (one.owner, one.alive, one.claim) for ref, one in found.items()} == {
        REF: (a, True, 4),
        Ref("player", "2"): (b, False, 5),
    }
    assert postgres.owners(cluster.admin, []) == {}


# -- lost answers ----------------------------------------------------------------------------------------------


def lose_the_answer(cluster: Cluster, proxy: Proxy, life: Life, number: int, asked: list[Ref]) -> None:
    """Claim, and have the connection cut after the server has committed and answered."""
    connection = connect(proxy.dsn, connect_timeout=20.0, statement_timeout=20.0)
    proxy.swallow_answers, proxy.answers = True, 0
    task = in_background(postgres.claim, connection, life, number, asked)
    until(lambda: proxy.answers)
    proxy.cut()
    with pytest.raises(AnswerLost):
        task.get()
    assert connection.closed
    proxy.swallow_answers = False


def test_a_claim_whose_answer_was_lost_is_asked_again(cluster: Cluster, proxy: Proxy) -> None:
    a, b, dead = cluster.life("a"), cluster.life("b"), cluster.life("dead")
    new, own, other, orphan, released = (Ref("player", text) for text in ("new", "own", "other", "orphan", "released"))
    postgres.claim(cluster.admin, dead, 1, [orphan])
    postgres.claim(cluster.admin, a, 1, [own])
    postgres.claim(cluster.admin, b, 1, [other])
    postgres.fence_self(cluster.admin, dead)
    asked = [new, own, other, orphan]
    lose_the_answer(cluster, proxy, a, 2, asked)
    assert cluster.row(new) == ("a", a.epoch, 2, 1), "it was done all the same"
    untouched = Ref("player", "untouched")
    postgres.claim(cluster.admin, a, 3, [released])
    answer = postgres.claim(cluster.admin, a, 4, [untouched, *asked, released], [0, 2, 2, 2, 2, 0])
    assert answer.mine == {new: NEW, own: REACTIVATION, orphan: FAILOVER, untouched: NEW, released: REACTIVATION}
    assert answer.foreign == {other: b}
    assert cluster.row(orphan) == ("a", a.epoch, 4, 3), "and an older release can't remove it"
    lose_the_answer(cluster, proxy, a, 5, [new, orphan])
    answer = postgres.claim(cluster.admin, a, 6, [new, orphan], [5, 2])
    assert answer.mine == {new: REACTIVATION, orphan: REACTIVATION}, "those of the lost one, which was no first claim"


def test_a_claim_that_never_reached_the_server_is_asked_again(cluster: Cluster) -> None:
    a = cluster.life("a")
    old, new = Ref("player", "old"), Ref("player", "new")
    postgres.claim(cluster.admin, a, 1, [old])
    assert postgres.claim(cluster.admin, a, 3, [old, new], [2, 2]).mine == {old: REACTIVATION, new: NEW}


def test_a_lost_claim_that_comes_late_changes_nothing_of_a_newer_one(cluster: Cluster) -> None:
    """The first statement is still waiting in the server when it is asked again, and goes on after that."""
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    locking, first, second = (cluster.connect() for _ in range(3))
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    late = in_background(postgres.claim, second, a, 3, [REF], [2])
    cluster.until_blocked(second)
    early = in_background(postgres.claim, first, a, 2, [REF])
    cluster.until_blocked(first)
    locking.run("COMMIT")
    assert late.get() == mine(REACTIVATION)
    assert early.get() == mine(REACTIVATION)
    assert cluster.row(REF) == ("a", a.epoch, 3, 2), "not back to 2"


def test_a_claim_whose_backend_is_terminated_is_asked_again(cluster: Cluster) -> None:
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    claiming, locking = cluster.connect(), cluster.connect()
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    other = Ref("player", "2")
    task = in_background(postgres.claim, claiming, a, 2, [REF, other])
    cluster.until_blocked(claiming)
    cluster.admin.run("SELECT pg_terminate_backend(%s)", (claiming.get_backend_pid(),))
    with pytest.raises(AnswerLost):
        task.get()
    locking.run("COMMIT")
    assert cluster.row(other) is None
    answer = postgres.claim(cluster.connect(), a, 3, [REF, other], [2, 2])
    assert answer.mine == {REF: REACTIVATION, other: NEW}


# -- all together ----------------------------------------------------------------------------------------------


class Witness:
    """Knows who may use which actor, and sees when two may."""

    def __init__(self) -> None:
        self.holders: dict[Ref, Life] = {}
        self.claims = Counter[str]()

    def got(self, ref: Ref, life: Life) -> None:
        assert self.holders.get(ref, life) == life, f"{ref} belongs to {self.holders[ref]} and to {life}"
        self.holders[ref] = life

    def gives_back(self, wanted: list[Ref], life: Life) -> list[Ref]:
        given = [ref for ref in wanted if self.holders.get(ref) == life]
        for ref in given:
            del self.holders[ref]
        return given

    def dies(self, life: Life) -> None:
        self.holders = {ref: holder for ref, holder in self.holders.items() if holder != life}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_claims_releases_and_deaths_never_deadlock_nor_double_an_actor(cluster: Cluster, seed: int) -> None:
    wanted = refs(40)
    witness = Witness()

    def live(host_id: str) -> None:
        chance = random.Random(f"{seed} {host_id}")
        connection = cluster.connect()
        life, number = cluster.life(host_id, connection), 0
        for _ in range(60):
            some = chance.sample(wanted, chance.randint(1, len(wanted)))
            what = chance.random()
            if what < 0.6:
                number += 1
                answer = postgres.claim(connection, life, number, some)
                for ref in answer.mine:
                    witness.got(ref, life)
                assert len(answer.mine) + len(answer.foreign) == len(some)
                witness.claims.update(reason.value for reason in answer.mine.values())
                witness.claims["foreign"] += len(answer.foreign)
            elif what < 0.95:
                given = witness.gives_back(some, life)
                removed = postgres.release(connection, life, number, given)
                assert removed == len(given)
            else:
                witness.dies(life)
                if chance.random() < 0.5:
                    postgres.fence_self(connection, life)
                    life = cluster.life(host_id, connection)
                else:
                    life = cluster.life(host_id, connection, previous_epoch=life.epoch)

    tasks = [in_background(live, f"host{n}") for n in range(6)]
    for task in tasks:
        task.get()
    assert min(witness.claims[kind] for kind in ("new", "reactivation", "failover", "foreign")) > 10, witness.claims
    rows = cluster.admin.run(
        "SELECT actor_id, o.host_id, o.epoch FROM actor_ownership o JOIN hosts h USING (host_id, epoch) "
        "WHERE h.fenced_at IS NULL"
    )
    assert {Ref("player", row[0]): Life(row[1], row[2]) for row in rows} == witness.holders
    assert cluster.admin.run("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


def test_a_claim_that_the_server_gives_up_leaves_the_connection_usable(cluster: Cluster) -> None:
    a = cluster.life("a")
    postgres.claim(cluster.admin, a, 1, [REF])
    claiming, locking = cluster.connect(statement_timeout=0.2), cluster.connect()
    claiming.statement_timeout = 20.0  # the server keeps its limit
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        postgres.claim(claiming, a, 2, [REF, Ref("player", "2")])
    locking.run("ROLLBACK")
    assert cluster.row(REF) == ("a", a.epoch, 1, 1)
    assert cluster.row(Ref("player", "2")) is None
    assert postgres.claim(claiming, a, 3, [REF]) == mine(REACTIVATION)
