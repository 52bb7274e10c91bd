"""The pytest plugin: hosts, clusters and a virtual clock as fixtures. It is there wherever theatre_gevent is installed.

Loading it starts and patches nothing; a conftest.py patches, as the entry point of the tests.
"""

from __future__ import annotations

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


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and workers of pytest-xdist able to work where conftest.py has patched."""
    config.addinivalue_line(
        "markers", "theatre_options(**options): options of the hosts that theatre_host and theatre_cluster make"
    )
    if hasattr(config, "workerinput"):
        from .xdist import wait_natively

        if not wait_natively(config):
            text = (
                "theatre_gevent does not know this version of pytest-xdist: should a worker end with LoopExit, use -n 0"
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
    yield host
    stop_hosts([host], clock)


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

    yield make
    stop_hosts(made)


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
