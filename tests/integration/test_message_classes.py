"""Registered classes on their way: between two hosts, and through the copies of `serialize_local`."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest

from tests.support import until
from theatre_gevent import Context, DeadLetter, Host, Initialize, Ref, RemoteActorError, Shutdown, message
from theatre_gevent.testing import TestCluster


@message("travelling.word")
class Word(str, enum.Enum):
    RED = "red"


@message("travelling.octets")
class Octets(bytes, enum.Enum):
    RED = b"red"


@message("travelling.place")
class Place(tuple, enum.Enum):  # type: ignore[type-arg]
    HOME = (0, 0)


@message("travelling.number")
class Number(int, enum.Enum):
    ONE = 1


MEMBERS = [Word.RED, Octets.RED, Place.HOME, Number.ONE]


def echo(ctx: Context) -> None:
    if not isinstance(ctx.message, (Initialize, Shutdown)):
        ctx.reply([type(ctx.message).__name__, ctx.message])


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_members_of_enumerations_arrive_at_another_host(member: Any) -> None:
    with TestCluster(2) as hosts:
        hosts.register_actor("echo", echo)
        for host in hosts:
            name, arrived = hosts[0].request(hosts.ref_on(host, "echo"), member)
            assert name == type(member).__name__
            assert arrived is member


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_members_of_enumerations_are_copied(member: Any) -> None:
    with Host(serialize_local=True) as host:
        host.register_actor("echo", echo)
        assert host.request(Ref("echo", "1"), member)[1] is member
        host.send(Ref("echo", "1"), {"at": member})


@message("travelling.checked")
class Checked(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number > 5:
            raise ValueError("at most 5")


def test_a_struct_that_checks_itself_may_refuse_a_message_on_arrival() -> None:
    dead: list[DeadLetter] = []
    with TestCluster(2, dead_letter_handler=dead.append) as hosts:
        hosts.register_actor("echo", echo)
        there = hosts.ref_on(hosts[1], "echo")
        assert hosts[0].request(there, Checked(5)) == ["Checked", Checked(5)]
        changed = Checked(5)
        changed.number = 6  # an assignment is not checked
        with pytest.raises(RemoteActorError, match=r"'travelling\.checked' cannot be made .* at most 5"):
            hosts[0].request(there, changed)
        hosts[0].send(there, changed)
        until(lambda: dead)
        assert "'travelling.checked' cannot be made from what arrived: ValueError: at most 5" in dead[0].reason
