"""The pytest plugin as its users run it: the examples of docs/testing.md, and tests that fail."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from .documents import DOCS, ROOT, blocks, files_of, run

PLUGIN = "theatre_gevent.testing.plugin"

FAILING = """
import pytest
from theatre_gevent import Host, Ref
from theatre_gevent.testing import ActorProbe


def test_nothing_comes(theatre_host):
    probe = ActorProbe()
    probe.register("audit", theatre_host)
    theatre_host.send(Ref("audit", "1"), "the first")
    probe.wait_for(1)
    probe.wait_for(2, timeout=0.1)


@pytest.mark.theatre_options(60)
def test_options_without_names(theatre_host):
    pass


def test_the_clock_decides(theatre_clock, theatre_host, theatre_cluster):
    host = theatre_cluster(1)[0]
    assert theatre_host._clock is theatre_clock is not host._clock
    broken = theatre_cluster(2)[1]
    broken.stop()  # the test's own business
    stop, theatre_host.stop = theatre_host.stop, lambda: 1 / 0
    stop()


@pytest.mark.theatre_options(idle_timeout=60)
class TestOptions:
    @pytest.mark.theatre_options(request_timeout=3)
    def test_all_markers_count(self, theatre_host, theatre_cluster):
        for host in (theatre_host, theatre_cluster(1)[0]):
            assert (host.options.idle_timeout, host.options.request_timeout) == (60, 3)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest; where the package was installed before it had the plugin, the plugin has to be named."""
    installed = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    named = [] if installed else ["-p", PLUGIN]
    return run([sys.executable, "-m", "pytest", *named, "-W", "error", "--strict-markers", *arguments], folder)


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    files_of("docs/testing.md", tmp_path)
    examples = [block.argument for block in blocks(DOCS / "testing.md") if block.argument and "test_" in block.argument]
    assert len(examples) == 3
    done = pytest_in(tmp_path, "-v")
    for example in examples:
        assert re.search(rf"^{example}::\w+ PASSED", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_what_fails_says_why_also_in_a_worker_of_xdist(tmp_path: Path) -> None:
    files_of("docs/testing.md", tmp_path)
    for example in tmp_path.glob("test_*.py"):
        example.unlink()
    (tmp_path / "test_failing.py").write_text(FAILING, encoding="utf-8")
    done = pytest_in(tmp_path, "-n", "1", "-rA")
    assert "2 passed, 1 failed, 2 errors" in re.sub(r"(\d failed), (\d passed)", r"\2, \1", done.stdout), done.stdout
    assert re.search(
        r"AssertionError: 2 messages did not come within 0\.1 s; the probe received 1:\n"
        r"E +1\. audit/1 on host-\w+: 'the first'\n",
        done.stdout,
    )
    assert "theatre_options takes options by name: theatre_options(idle_timeout=60)" in done.stdout
    assert re.search(r"RuntimeError: hosts of this test did not stop .*: host-\w+: division by zero", done.stdout)
    assert "PASSED test_failing.py::TestOptions::test_all_markers_count" in done.stdout
    assert "ERROR test_failing.py::test_the_clock_decides" in done.stdout
    assert "LoopExit" not in done.stdout + done.stderr
    assert done.returncode == 1


def test_nothing_is_patched_and_who_has_not_patched_is_told_how_to(tmp_path: Path) -> None:
    (tmp_path / "test_unpatched.py").write_text(
        "def test_nothing_is_patched():\n"
        "    from theatre_gevent.monkey import is_patched\n"
        "    assert not is_patched()\n"
        "def test_host(theatre_host): pass\n"
        "def test_cluster(theatre_cluster): pass\n",
        encoding="utf-8",
    )
    done = pytest_in(tmp_path)
    assert "1 passed, 2 errors" in done.stdout
    assert "    from theatre_gevent import monkey\n    monkey.patch_all()\n" in done.stdout.replace("E   ", "")


def test_a_patched_worker_of_execnet_waits_for_more(tmp_path: Path) -> None:
    """One worker in ten of a short run had ended with a LoopExit instead, after its tests had passed."""
    patch = (
        "from theatre_gevent import monkey; monkey.patch_all()\n"
        "from theatre_gevent.testing.xdist import rest_natively\n"
        "rest_natively(channel.gateway)\n"
        "channel.send('patched')\n"
    )
    script = tmp_path / "master.py"
    script.write_text(
        "import time, execnet\n"
        "gateway = execnet.makegateway('popen')\n"
        f"first = gateway.remote_exec({patch!r})\n"
        "print(first.receive(20), flush=True)\n"
        "first.waitclose(20)\n"
        "time.sleep(0.3)  # until it waits\n"
        "second = gateway.remote_exec('channel.send(\"works on\")')\n"
        "print(second.receive(20), flush=True)\n"
        "second.waitclose(20)\n"
        "time.sleep(0.3)\n"
        "execnet.default_group.terminate(10)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path
    )
    assert done.stdout.split("\n") == ["patched", "works on", ""]
    assert done.stderr == ""
    assert done.returncode == 0


OUTCOMES = """
import time
import pytest
from theatre_gevent import Ref, Shutdown
from theatre_gevent.testing import ActorProbe

ONE = Ref("failing", "1")


def fail(ctx):
    pytest.fail("the audit got what it should not")


def compute(ctx):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass


def fail_in_shutdown(ctx):
    if isinstance(ctx.message, Shutdown):
        pytest.fail("in Shutdown")


def test_a_receiver_fails_it(theatre_host):
    probe = ActorProbe(receive=fail)
    probe.register("failing", theatre_host)
    theatre_host.send(ONE, "x")
    probe.wait_for(1)
    probe.wait_for(2, timeout=50)


def test_a_receiver_fails_it_at_a_virtual_clock(theatre_clock, theatre_host):
    ActorProbe(receive=fail).register("failing", theatre_host)
    theatre_host.send(ONE, "x")
    theatre_clock.advance(1)


def test_a_receiver_fails_it_at_the_end(theatre_cluster):
    hosts = theatre_cluster(2)
    hosts.register_actor("failing", fail_in_shutdown)
    hosts[0].spawn_local(ONE)


@pytest.mark.timeout(1)
def test_an_actor_computes_for_too_long(theatre_host):
    ActorProbe(receive=compute).register("failing", theatre_host)
    theatre_host.send(ONE, "x")
    time.sleep(50)


@pytest.mark.theatre_options(panic_recovery=False)
def test_a_receiver_raises_in_shutdown(theatre_host):
    def leave(ctx):
        if isinstance(ctx.message, Shutdown):
            raise LookupError

    theatre_host.register_actor("leaving", leave)
    theatre_host.spawn_local(Ref("leaving", "1"))


def test_the_next_one_has_nothing_to_do_with_it(theatre_clock, theatre_host):
    probe = ActorProbe(reply="fine")
    probe.register("fine", theatre_host)
    assert theatre_host.request(Ref("fine", "1"), "?") == "fine"
"""


def test_what_fails_in_a_receiver_fails_its_test(tmp_path: Path) -> None:
    files_of("docs/testing.md", tmp_path)
    for example in tmp_path.glob("test_*.py"):
        example.unlink()
    (tmp_path / "test_outcomes.py").write_text(OUTCOMES, encoding="utf-8")
    done = pytest_in(tmp_path, "-n", "0", "-rA")
    lines = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    assert {name: outcome for outcome, name in lines} == {  # an error at the end comes after what the test itself was
        "test_a_receiver_fails_it": "FAILED",
        "test_a_receiver_fails_it_at_a_virtual_clock": "FAILED",
        "test_a_receiver_fails_it_at_the_end": "ERROR",
        "test_an_actor_computes_for_too_long": "FAILED",
        "test_a_receiver_raises_in_shutdown": "ERROR",
        "test_the_next_one_has_nothing_to_do_with_it": "PASSED",
    }, done.stdout + done.stderr
    assert done.stdout.count("Failed: the audit got what it should not") >= 2
    assert "a receiver raised while it stopped" in done.stdout


def test_workers_of_xdist_wait_also_where_a_conftest_further_down_has_patched(tmp_path: Path) -> None:
    """Without arguments pytest loads it only when it collects the tests beside it."""
    files_of("docs/testing.md", tmp_path / "checks")
    done = pytest_in(tmp_path, "-n", "2")
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert done.returncode == 0


def test_the_version_of_xdist_that_the_page_asks_for_is_the_one_of_the_extras() -> None:
    [asked] = re.findall(r"pytest-xdist (\d\.\d+) or newer", (DOCS / "testing.md").read_text(encoding="utf-8"))
    extras = re.findall(r"^    pytest-xdist >= (\S+)$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert extras == [asked, asked]
