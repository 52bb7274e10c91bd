"""The hash ring: which member owns a ref, the same answer on every host that knows the same members.

Consistent hashing (Karger et al., 1997): every member stands at many points of a circle of 64-bit numbers, and a ref
belongs to the member whose point comes next after the ref's own. When a member joins, it takes over refs from the
others and nothing else moves; when one leaves, only its refs move. Points and refs are hashed with blake2b, which
spreads short keys. A member's share strays from even by about 1 / sqrt(points): each virtual node stands at as many
points as fit into one digest, 8, so that 150 make 1 200 and 3 % (10 000 refs on 3 members: within 15 %, 5 sigma).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..messages import Ref


class HashRing:
    """An immutable ring; a changed one is a new one.

    Args:
        members: Host ids, in any order; repeated ones count once.
        virtual_nodes: Groups of 8 points of each member. More are more even and take longer to set up: about 1 ms for
            each member with 150.

    Attributes:
        members: Sorted.
        virtual_nodes: As given.

    Raises:
        ValueError: `virtual_nodes` is below 1, or a member is not a non-empty string.
    """

    __slots__ = ("_first", "_owners", "_points", "members", "virtual_nodes")

    def __init__(self, members: Iterable[str] = (), virtual_nodes: int = 150) -> None:
        if isinstance(members, str):
            raise ValueError(f"members must be several host ids, got one string: {members!r}")  # noqa: TRY004
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes must be 1 or more, got {virtual_nodes}")
        found = set(members)
        for member in found:
            if type(member) is not str or not member:
                raise ValueError(f"a member must be a non-empty string, got {member!r}")
        self.members = tuple(sorted(found))
        self.virtual_nodes = virtual_nodes
        points = sorted((point, member) for member in self.members for point in _points(member, virtual_nodes))
        self._points = [point for point, _ in points]
        # Where the points with each first byte begin: what is left to search is a few of them, which lie together.
        firsts = bytes(point[0] for point in self._points)
        self._first = [bisect_left(firsts, byte) for byte in range(257)]
        # One more at the end than there are points: whatever lies after the last point belongs to the first.
        self._owners = [member for _, member in [*points, *points[:1]]]

    def __repr__(self) -> str:
        return f"HashRing({list(self.members)!r}, virtual_nodes={self.virtual_nodes})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HashRing):
            return NotImplemented
        return self.members == other.members and self.virtual_nodes == other.virtual_nodes

    def __hash__(self) -> int:
        return hash((self.members, self.virtual_nodes))

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, member: object) -> bool:
        return member in self.members

    def with_members(self, members: Iterable[str]) -> HashRing:
        """Return the ring of these members, this one if they are the same."""
        ring = HashRing(members, self.virtual_nodes)
        return self if ring.members == self.members else ring

    def owner(self, ref: Ref) -> str | None:
        """Return the member that owns `ref`, None if there are no members."""
        return self._owners[self._after(_place(ref.type, ref.id))] if self._owners else None

    def owner_of(self, actor_type: str, actor_id: str) -> str | None:
        """Return the member that owns the actor, None if there are no members."""
        return self._owners[self._after(_place(actor_type, actor_id))] if self._owners else None

    def owners(self, ref: Ref, count: int) -> list[str]:
        """Return up to `count` different members, the owner first, then who would own `ref` if those before left."""
        found: list[str] = []
        wanted = min(count, len(self.members))
        start = self._after(_place(ref.type, ref.id))
        total = len(self._points)
        for step in range(total):
            if len(found) >= wanted:
                break
            owner = self._owners[(start + step) % total]
            if owner not in found:
                found.append(owner)
        return found

    def _after(self, place: bytes) -> int:
        """Return the number of the point that comes next."""
        first, byte = self._first, place[0]
        return bisect_right(self._points, place, first[byte], first[byte + 1])


_FRESH = blake2b(digest_size=8)
"""Copied for each ref, which takes less time than making one."""


def _place(actor_type: str, actor_id: str) -> bytes:
    # The length keeps a/b + c apart from a + b/c. Bytes compare as the big-endian numbers that they are.
    key = f"{len(actor_type)}/{actor_type}/{actor_id}"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        encoded = key.encode("utf-8", "surrogatepass")  # no string may fail here
    digest = _FRESH.copy()
    digest.update(encoded)
    return digest.digest()


def _points(member: str, virtual_nodes: int) -> Iterator[bytes]:
    name = member.encode("utf-8", "surrogatepass")
    for number in range(virtual_nodes):
        digest = blake2b(b"%d#%s" % (number, name), digest_size=64, person=b"theatre ring").digest()
        for start in range(0, 64, 8):
            yield digest[start : start + 8]
