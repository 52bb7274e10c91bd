"""What each JSON address answers. Field names are those of the Go original."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from .._version import __version__
from ..logic.paging import MAX_LIMIT, cursor_of, read_cursor
from ..messages import Ref
from .parameters import AFTER, HOST, ID, LIMIT, PREFIX, TYPE, Parameter
from .peers import Answer, Peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .view import HostView, Owner, Peer

Json = dict[str, Any]
Given = dict[str, Any]
"""Parameters by name, read and checked."""


class View(NamedTuple):
    """An address.

    Attributes:
        path: Where.
        answer: Makes the answer, given the parameters.
        parameters: Those that it takes.
        asks: Whether it asks other hosts.
    """

    path: str
    answer: Callable[[Views, Given], Json]
    parameters: tuple[Parameter, ...] = ()
    asks: bool = False


class NotAnswered(Exception):
    """Another host did not give the answer.

    Attributes:
        answer: What came instead.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.error)


class Views:
    """The answers about one host, and through it about its cluster.

    Args:
        host: The host.
        peers: Asks the others.
    """

    def __init__(self, host: HostView, peers: Peers) -> None:
        self.host = host
        self.peers = peers

    # -- this host ---------------------------------------------------------------------------------------------

    def status(self, _: Given) -> Json:
        """State, epoch, lease, metrics, types and what the host keeps."""
        return self.host.status()

    def hosts(self, _: Given) -> Json:
        """The hosts of the cluster; one that is by itself names itself."""
        return {"hosts": [peer._asdict() for peer in self.host.peers()]}

    def actor(self, given: Given) -> Json:
        """Where an actor belongs, and whether it is active there."""
        ref = _ref(given)
        owner = self.host.owner(ref)
        peer = self._peer(owner.host_id)
        answer: Json = {
            "actor_type": ref.type,
            "actor_id": ref.id,
            **_owner(owner, peer),
            "address": None if peer is None else peer.address,
            "found": owner.owned,
        }
        if owner.owned is None and peer is not None and owner.host_id != self.host.host_id:
            (said,) = self.peers.ask([peer], _target("/cluster/local-actor", given))
            answer["found"] = None if said.error is not None else bool(said.data.get("found"))
            if said.error is not None:
                answer["error"] = said.error
        return answer

    def local_actor(self, given: Given) -> Json:
        """Whether an actor is active on this host."""
        ref = _ref(given)
        detail = self.host.detail(ref) or {}
        return {
            "actor_type": ref.type,
            "actor_id": ref.id,
            "found": bool(detail),
            "status": detail.get("status"),
            "last_message": detail.get("last_message"),
        }

    def actors(self, given: Given) -> Json:
        """A page of the actors that are active on this host."""
        return self.host.actors(given["type"], given["prefix"], given["after"], given["limit"])

    def actor_detail(self, given: Given) -> Json:
        """What is known of one actor on this host."""
        ref = _ref(given)
        owner = self.host.owner(ref)
        peer = self._peer(owner.host_id)
        detail = self.host.detail(ref)
        return {
            "type": ref.type,
            "id": ref.id,
            **(detail or {"status": None}),
            "found": detail is not None,
            **_owner(owner, peer),
            "owner_addr": None if peer is None else peer.address,
        }

    def schedules(self, given: Given) -> Json:
        """The pending schedules of this host, with a database those of the cluster; `scope` says which."""
        return self.host.schedules(given["limit"])

    def types(self, _: Given) -> Json:
        """The registered types, and what was counted of each."""
        counts = self.host.types()
        details = [{**one._asdict(), "bounds": list(self.host.bounds)} for one in counts]
        return {"types": [one.name for one in counts], "details": details}

    def errors(self, given: Given) -> Json:
        """The last warnings and dead letters."""
        return self.host.errors(given["limit"])

    def variables(self, _: Given) -> Json:
        """What is of use when something is wrong with the process."""
        return {
            "program": sys.argv[0] if sys.argv else "",
            "pid": os.getpid(),
            "python": sys.version,
            "theatre_gevent": __version__,
            "memstats": {"gc": gc.get_stats(), "gc_frozen": gc.get_freeze_count(), "gc_enabled": gc.isenabled()},
            "theatre": self.host.metrics(),
        }

    # -- all hosts ---------------------------------------------------------------------------------------------

    def all_status(self, _: Given) -> Json:
        """The status of each host; one that does not answer is there too, with the reason."""
        answers = {answer.host_id: answer for answer in self._ask_others("/cluster/status", {})}
        hosts = []
        for peer in self.host.peers():
            said = answers.get(peer.host_id) or Answer(peer.host_id, 200, self.host.status(), None)
            fine = said.error is None
            # Epoch and lease as the host itself knows them, if it says so.
            entry = {**peer._asdict(), "answered": fine, "error": said.error, "status": said.data if fine else None}
            if fine:
                entry.update({name: said.data[name] for name in ("epoch", "state") if name in said.data})
            hosts.append(entry)
        return {"host_id": self.host.host_id, "hosts": hosts}

    def all_actors(self, given: Given) -> Json:
        """A page of the actors of all hosts that answer, in the order of their refs."""
        answers = self._all("/cluster/actors", given, self.actors)
        entries = [entry for answer in answers for entry in answer.data.get("actors", ())]
        entries.sort(key=lambda entry: (entry["type"], entry["id"], entry["host_id"]))
        # A host shows what is not beyond its own next page, and less than that where actors have left meanwhile.
        ends = [(read_cursor(end), end) for answer in answers if (end := answer.data.get("next"))]
        shown, following = min(ends, default=(None, None))
        if shown is not None:
            entries = [entry for entry in entries if (entry["type"], entry["id"]) <= shown]
        page = entries[: given["limit"]]
        if len(entries) > len(page):
            following = cursor_of(Ref(page[-1]["type"], page[-1]["id"]))
        total = sum(answer.data.get("total", 0) for answer in answers)
        return {"actors": page, "total": total, "next": following, "silent": _silent(answers)}

    def all_actor_detail(self, given: Given) -> Json:
        """What is known of one actor, wherever it is."""
        detail = self.actor_detail(given)
        if detail["found"]:
            return {**detail, "silent": []}
        answers = self._ask_others("/cluster/actor-detail", given)
        found = next((answer.data for answer in answers if answer.error is None and answer.data.get("found")), None)
        return {**(found or detail), "silent": [] if found else _silent(answers)}

    def all_schedules(self, given: Given) -> Json:
        """The pending schedules of all hosts that answer, the earliest first."""
        mine = self.schedules(given)
        if mine["scope"] == "cluster":
            return {"schedules": mine["schedules"], "total": mine["total"], "silent": []}
        answers = [Answer(self.host.host_id, 200, mine, None), *self._ask_others("/cluster/schedules", given)]
        entries = [entry for answer in answers for entry in answer.data.get("schedules", ())]
        entries.sort(key=lambda entry: str(entry["next_fire"]))
        total = sum(answer.data.get("total", 0) for answer in answers)
        return {"schedules": entries[: given["limit"]], "total": total, "silent": _silent(answers)}

    def all_errors(self, given: Given) -> Json:
        """The last warnings and dead letters of all hosts that answer, the newest first."""
        # All of each, for what two hosts both have counts once: a host keeps few hundred.
        answers = self._all("/cluster/errors", {**given, "limit": MAX_LIMIT}, self.errors)
        entries: dict[tuple[Any, ...], Json] = {}
        for answer in answers:
            alike: Counter[tuple[Any, ...]] = Counter()
            for entry in answer.data.get("errors", ()):
                # Hosts of one process hear the same log; what one host has twice happened twice, in one millisecond.
                where = answer.host_id if entry["source"] == "dead letter" else ""
                what = (where, entry["process"], entry["time"], entry["source"], entry["message"])
                alike[what] += 1
                key = (*what, alike[what])
                entries[key] = entry
        ordered = sorted(entries.values(), key=lambda entry: (entry["time"], entry["number"]), reverse=True)
        return {"errors": ordered[: given["limit"]], "total": len(ordered), "silent": _silent(answers)}

    # -- inside ------------------------------------------------------------------------------------------------

    def answer(self, view: View, given: Given) -> Json:
        """Make an answer, of another host if the parameter `host` names one.

        Raises:
            NotAnswered: That host does not give it.
        """
        wanted = given.pop("host", None)
        if wanted is None or wanted == self.host.host_id:
            return view.answer(self, given)
        peer = self._peer(wanted)
        if peer is None:
            known = ", ".join(repr(one.host_id) for one in self.host.peers())
            raise ValueError(f"parameter 'host' must be one of {known}, got {wanted[:100]!r}")
        (said,) = self.peers.ask([peer], _target(view.path, given))
        if said.error is not None:
            raise NotAnswered(said)
        return said.data

    def _peer(self, host_id: str) -> Peer | None:
        return next((peer for peer in self.host.peers() if peer.host_id == host_id), None)

    def _ask_others(self, path: str, given: Given) -> list[Answer]:
        return self.peers.ask(self.peers.others(), _target(path, given))

    def _all(self, path: str, given: Given, mine: Callable[[Given], Json]) -> list[Answer]:
        others = self._ask_others(path, given)
        return [Answer(self.host.host_id, 200, mine(given), None), *others]


def _ref(given: Given) -> Ref:
    return Ref(given["type"], given["id"])


def _owner(owner: Owner, peer: Peer | None) -> Json:
    epoch = peer.epoch if owner.epoch is None and peer is not None else owner.epoch
    return {"owner_host": owner.host_id or None, "epoch": epoch}


def _target(path: str, given: Given) -> str:
    query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def _silent(answers: Sequence[Answer]) -> list[Json]:
    return [{"host_id": answer.host_id, "error": answer.error} for answer in answers if answer.error is not None]


_ACTOR = (TYPE, ID)
_PAGE = (TYPE.optional(), PREFIX, AFTER, LIMIT)
VIEWS = (
    View("/cluster/status", Views.status, (HOST,)),
    View("/cluster/hosts", Views.hosts, (HOST,)),
    View("/cluster/actor", Views.actor, (*_ACTOR, HOST), asks=True),
    View("/cluster/local-actor", Views.local_actor, (*_ACTOR, HOST)),
    View("/cluster/actors", Views.actors, (*_PAGE, HOST)),
    View("/cluster/actor-detail", Views.actor_detail, (*_ACTOR, HOST)),
    View("/cluster/schedules", Views.schedules, (LIMIT, HOST)),
    View("/cluster/types", Views.types, (HOST,)),
    View("/cluster/errors", Views.errors, (LIMIT, HOST)),
    View("/cluster/all-status", Views.all_status, asks=True),
    View("/cluster/all-actors", Views.all_actors, _PAGE, asks=True),
    View("/cluster/all-actor-detail", Views.all_actor_detail, _ACTOR, asks=True),
    View("/cluster/all-schedules", Views.all_schedules, (LIMIT,), asks=True),
    View("/cluster/all-errors", Views.all_errors, (LIMIT,), asks=True),
    View("/debug/vars", Views.variables, (HOST,)),
)
"""All JSON addresses; each takes GET alone."""
