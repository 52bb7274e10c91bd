"""The tree of errors: one root, and messages that say what to do."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from theatre_gevent import CallCycle, Ref, RemoteActorError, StopActor, TheatreError, UnregisteredActorType, errors

ALL = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_one_tree(error: type[BaseException]) -> None:
    if error is StopActor:
        assert not issubclass(error, TheatreError), "it is a signal, and no error that somebody would catch"
    elif issubclass(error, BaseException):
        assert issubclass(error, TheatreError)
    assert error.__doc__


SAMPLES: list[TheatreError] = [
    UnregisteredActorType("a", ["z", "b"]),
    CallCycle([Ref("a", "1"), Ref("b", "2"), Ref("a", "1")]),
    RemoteActorError("ValueError", "bad", Ref("a", "1")),
    errors.HostFrozen("host x is frozen"),
    errors.HostDraining("host x is stopping"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_a_copy_says_and_holds_the_same_and_is_another(error: TheatreError) -> None:
    """Whoever waits gets an exception of its own; the copy must not lose what the original knew."""
    error.__cause__ = KeyError("why")
    twin = error.copy()
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert twin.__cause__ is error.__cause__
    assert twin.__traceback__ is None


@pytest.mark.parametrize("error", [*SAMPLES, errors.RequestTimeout("late")], ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: TheatreError) -> None:
    """The library does not pickle, but test runners and process pools do."""
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


def test_what_each_holds() -> None:
    unknown, cycle, remote = SAMPLES[:3]
    assert isinstance(unknown, UnregisteredActorType)
    assert (unknown.actor_type, unknown.registered) == ("a", ["b", "z"])
    assert isinstance(cycle, CallCycle)
    assert cycle.chain == (Ref("a", "1"), Ref("b", "2"), Ref("a", "1"))
    assert isinstance(remote, RemoteActorError)
    assert (remote.type_name, remote.message, remote.ref) == ("ValueError", "bad", Ref("a", "1"))
    assert str(remote) == "a/1 raised ValueError: bad"
    assert isinstance(errors.RequestTimeout(), TimeoutError)
    assert copy.copy(Ref("a", "1")) == Ref("a", "1")
