"""The pytest plugin: hosts, clusters and a virtual clock as fixtures. It is there wherever theatre_gevent is installed.

Loading it starts and patches nothing; a conftest.py patches, as the entry point of the tests.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..host import Host
    from .clock import VirtualClock
    from .hosts import TestCluster


class MakeCluster(Protocol):
    """The type of the fixture `theatre_cluster`."""

    def __call__(
        self, count: int, *, own: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
    ) -> TestCluster:
        """Start a cluster of `count` hosts; the arguments are those of `TestCluster`."""


_OUTCOMES: tuple[type[BaseException], ...] = (pytest.fail.Exception, pytest.skip.Exception)

_WARNED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and workers of pytest-xdist able to work where conftest.py has patched."""
    config.addinivalue_line(
        "markers", "theatre_options(**options): options of the hosts that theatre_host and theatre_cluster make"
    )
    _wait_natively(config)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist tells its master then that the worker is ready for orders
def pytest_collection_finish(session: pytest.Session) -> None:
    """Let workers work also where a conftest.py further down has patched, which is loaded with its tests."""
    _wait_natively(session.config)


def _wait_natively(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        return
    from .xdist import wait_natively

    if not wait_natively(config) and not config.stash.get(_WARNED, False):
        config.stash[_WARNED] = True
        text = (
            "theatre_gevent does not know this version of pytest-xdist, 3.7 or newer is needed: "
            "should a worker end with LoopExit, use -n 0"
        )
        config.issue_config_time_warning(pytest.PytestConfigWarning(text), stacklevel=2)


@pytest.fixture
def theatre_clock() -> VirtualClock:
    """Return a `VirtualClock`, at which `theatre_host` lives in every test that asks for both."""
    from .clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def theatre_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Give a host by itself, started, and stop it after the test; that it does not stop is an error of the test.

    It lives in real time, or at `theatre_clock` if the test or one of its fixtures asks for that as well. The marker
    `theatre_options` gives its options.
    """
    _check_patched()
    from ..host import Host
    from .hosts import stop_hosts

    clock = request.getfixturevalue("theatre_clock") if "theatre_clock" in request.fixturenames else None
    host = Host(**{"clock": clock, **_options(request)}).start()
    with _outcomes_reach_the_test():
        yield host
        stop_hosts([host], clock, _OUTCOMES)


@pytest.fixture
def theatre_cluster(request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Give a function that starts clusters, and stop these after the test; one that does not stop is an error of it.

    `theatre_cluster(3)` returns a `TestCluster`, a list of three hosts in this process that are connected.
    """
    _check_patched()
    from .hosts import TestCluster, stop_hosts

    made: list[Host] = []

    def make(count: int, *, own: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> TestCluster:
        cluster = TestCluster(count, own=own, **{**_options(request), **options})
        made.extend(cluster)
        cluster.start()
        return cluster

    with _outcomes_reach_the_test():
        yield make
        stop_hosts(made, outcomes=_OUTCOMES)


@contextmanager
def _outcomes_reach_the_test() -> Iterator[None]:
    """Let `pytest.fail` and its like end the test also where a receiver calls them, or a timeout of the test does.

    They are no `Exception`, so they end the greenlet of the actor, and gevent would only print that.
    """
    from gevent import get_hub

    hub = get_hub()
    before = hub.SYSTEM_ERROR
    hub.SYSTEM_ERROR = (*before, *_OUTCOMES)
    try:
        yield
    finally:
        hub.SYSTEM_ERROR = before


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what the markers say, the nearest last."""
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("theatre_options"))):
        if mark.args:
            pytest.fail("theatre_options takes options by name: theatre_options(idle_timeout=60)", pytrace=False)
        options.update(mark.kwargs)
    return options


def _check_patched() -> None:
    from ..monkey import is_patched

    if not is_patched():
        pytest.fail(
            "hosts need a monkey-patched standard library. Let conftest.py, in the topmost folder of "
            "your tests, begin with\n"
            "    from theatre_gevent import monkey\n"
            "    monkey.patch_all()",
            pytrace=False,
        )
