"""Fixtures of all tests. Patches first, as every entry point does."""

from theatre_gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.parallel import alone  # noqa: E402
from tests.postgres import Databases, Server  # noqa: E402
from tests.support import assert_balanced, run_in_steps  # noqa: E402
from theatre_gevent import DeadLetter, Host, SystemClock  # noqa: E402
from theatre_gevent.testing import VirtualClock  # noqa: E402
from theatre_gevent.testing.xdist import wait_natively  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl+C, and so would the programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An example takes as long as the machine lets it: how fast code is, benchmarks say.
settings.register_profile("theatre_gevent", deadline=None)
settings.load_profile("theatre_gevent")

MakeHost = Callable[..., Host]


def pytest_configure(config: pytest.Config) -> None:
    """Let a worker of pytest-xdist wait for its orders as it did before this module has patched."""
    # The pytest plugin does it too, where it is installed and loaded.
    if hasattr(config, "workerinput") and not wait_natively(config):
        raise pytest.UsageError("theatre_gevent.testing.xdist does not know this version of pytest-xdist: use -n 0")


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that only the test moves."""
    return VirtualClock()


@pytest.fixture
def dead_letters() -> list[DeadLetter]:
    """What the hosts of `make_host` could not deliver."""
    return []


@pytest.fixture
def make_host(clock: VirtualClock, dead_letters: list[DeadLetter]) -> Iterator[MakeHost]:
    """Make started hosts under the virtual clock; at the end they are stopped and their books are checked."""
    hosts: list[Host] = []

    def make(**options: Any) -> Host:
        options.setdefault("clock", clock)
        options.setdefault("dead_letter_handler", dead_letters.append)
        host = Host(**options).start()
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        run_in_steps(clock, host.stop)
        assert host.state == "stopped"
        assert_balanced(host.metrics)
        assert host.metrics.snapshot()["actors_active"] == 0
        assert host.metrics.snapshot()["messages_queued"] == 0


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """A host with default options under the virtual clock."""
    return make_host()


@pytest.fixture
def real_host(make_host: MakeHost) -> Host:
    """A host with default options under the machine's clock, for what involves native threads or real waits."""
    return make_host(clock=SystemClock())


@pytest.fixture
def fixed_ports() -> Iterator[None]:
    """For tests of programs with fixed ports: one at a time, of all workers and of all runs on this machine."""
    with alone("theatre-test-fixed-ports"):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The PostgreSQL server of this run: the one that `THEATRE_TEST_DSN` names, else a private one.

    Tests share it. What pauses, restarts or kills a server takes an `EmbeddedPostgres` of its own.
    """
    with Server() as server:
        yield server


@pytest.fixture
def databases(postgres: Server) -> Iterator[Databases]:
    """Makes fresh, empty databases, which are dropped after the test."""
    made = Databases(postgres.dsn)
    yield made
    made.drop_all()


@pytest.fixture
def dsn(databases: Databases) -> str:
    """How to connect to a fresh, empty database, which is dropped after the test."""
    return databases.create()
