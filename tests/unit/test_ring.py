"""The hash ring: even, the same everywhere, and nothing moves that need not."""

from __future__ import annotations

import string
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theatre_gevent import Ref
from theatre_gevent.logic.ring import HashRing

KEYS = [Ref("actor", str(number)) for number in range(10_000)]
names = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=12)
members = st.sets(names, min_size=1, max_size=6)
refs = st.builds(Ref, st.text(min_size=1), st.text(min_size=1))


@pytest.mark.parametrize("hosts", [["a", "b", "c"], ["host-1", "host-2", "host-3"], ["10.0.0.1:1", "10.0.0.2:1", "x"]])
def test_three_hosts_share_ten_thousand_actors_within_15_percent(hosts: list[str]) -> None:
    share = Counter(map(HashRing(hosts).owner, KEYS))
    assert set(share) == set(hosts)
    assert all(abs(count - 10_000 / 3) <= 0.15 * 10_000 / 3 for count in share.values()), share


@settings(max_examples=20)
@given(st.sets(names, min_size=3, max_size=3))
def test_any_three_hosts_share_evenly(hosts: set[str]) -> None:
    share = Counter(map(HashRing(hosts).owner, KEYS[:5000]))
    assert all(abs(count - 5000 / 3) <= 0.25 * 5000 / 3 for count in share.values()), share


def test_the_owners_of_version_1_stay_as_they_are() -> None:
    """Hosts of different releases in one cluster have to agree."""
    ring = HashRing(["a", "b", "c"])
    assert [ring.owner(Ref("greeter", str(number))) for number in range(12)] == list("bacaaabcabca")


@settings(max_examples=50)
@given(members, st.integers(1, 3), st.lists(refs, min_size=1, max_size=20))
def test_the_owner_is_who_has_the_next_point(hosts: set[str], virtual_nodes: int, some: list[Ref]) -> None:
    """Looked for among all points: few of them leave many first bytes without any."""
    ring = HashRing(hosts, virtual_nodes)
    points = sorted(
        (digest[start : start + 8], host)
        for host in hosts
        for number in range(virtual_nodes)
        for digest in [blake2b(b"%d#%s" % (number, host.encode()), person=b"theatre ring").digest()]
        for start in range(0, 64, 8)
    )
    for ref in some:
        key = f"{len(ref.type)}/{ref.type}/{ref.id}".encode("utf-8", "surrogatepass")
        place = blake2b(key, digest_size=8).digest()
        assert ring.owner(ref) == next((host for point, host in points if point > place), points[0][1])


@settings(max_examples=30)
@given(members, st.lists(refs, max_size=20))
def test_the_order_of_members_does_not_matter(hosts: set[str], some: list[Ref]) -> None:
    shuffled = sorted(hosts, reverse=True)
    ring, other = HashRing(sorted(hosts)), HashRing(shuffled + shuffled[:1])
    assert ring == other
    assert hash(ring) == hash(other)
    assert [ring.owner(ref) for ref in some] == [other.owner(ref) for ref in some]
    assert ring.with_members(shuffled) is ring
    assert ring.members == tuple(sorted(hosts))


@settings(max_examples=30)
@given(members, names)
def test_a_host_that_joins_takes_and_nothing_else_moves(hosts: set[str], joining: str) -> None:
    hosts.discard(joining)
    before, after = HashRing(hosts), HashRing(hosts | {joining})
    for ref in KEYS[:300]:
        if (owner := after.owner(ref)) != joining:
            assert owner == before.owner(ref)
    left = after.with_members(hosts)
    assert [left.owner(ref) for ref in KEYS[:300]] == [before.owner(ref) for ref in KEYS[:300]]


@settings(max_examples=30)
@given(members, refs, st.integers(0, 8))
def test_successors_are_who_would_own_it_next(hosts: set[str], ref: Ref, count: int) -> None:
    ring = HashRing(hosts)
    expected: list[str] = []
    rest = ring
    for _ in range(min(count, len(hosts))):
        owner = rest.owner(ref)
        assert owner is not None
        expected.append(owner)
        rest = rest.with_members(set(rest.members) - {owner})
    assert ring.owners(ref, count) == expected


def test_an_empty_ring_owns_nothing() -> None:
    ring = HashRing()
    assert ring.owner(KEYS[0]) is None
    assert ring.owner_of("a", "b") is None
    assert ring.owners(KEYS[0], 3) == []
    assert (len(ring), "a" in ring, "a" in HashRing("a" for _ in range(2))) == (0, False, True)
    assert repr(HashRing(["b", "a"])) == "HashRing(['a', 'b'], virtual_nodes=150)"
    assert HashRing(["a"]) != HashRing(["a"], 10)
    assert HashRing(["a"]) != "a"


def test_type_and_id_are_kept_apart() -> None:
    ring = HashRing([str(number) for number in range(50)])
    pairs = [(("a/b", "c"), ("a", "b/c")), (("1/a", "b"), ("1", "a/b")), (("a", "/b"), ("a/", "b"))]
    assert any(ring.owner_of(*one) != ring.owner_of(*other) for one, other in pairs)
    assert ring.owner_of("\ud800", "\ud800") in ring


@pytest.mark.parametrize("bad", ["abc", [""], [1], [None], [b"a"]])
def test_members_are_host_ids(bad: object) -> None:
    with pytest.raises(ValueError, match="member"):
        HashRing(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="virtual_nodes must be 1 or more, got 0"):
        HashRing(["a"], 0)
