"""Programs of their own: what importing does, and what a host says in a program that nobody patched."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


START_TWICE = """
    from theatre_gevent import Host, Ref
    for _ in range(2):
        with Host() as host:
            host.register_actor("a", lambda ctx: ctx.reply(ctx.message))
            print(host.request(Ref("a", "1"), "works all the same"))
"""


def test_an_unpatched_program_is_warned_once_and_told_how() -> None:
    result = run(START_TWICE, "-W", "always")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "works all the same\n" * 2
    assert result.stderr.count("RuntimeWarning") == 1
    assert "not monkey-patched" in result.stderr
    assert "from theatre_gevent import monkey; monkey.patch_all()" in result.stderr
    assert "<string>:4" in result.stderr, "it points at the line that started the host"


def test_what_the_warning_says_helps() -> None:
    result = run(
        "from theatre_gevent import monkey; monkey.patch_all()\n" + textwrap.dedent(START_TWICE), "-W", "error"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_patch_all_patches_psycopg2_too_and_may_be_repeated() -> None:
    result = run(
        """
        from theatre_gevent import monkey
        print(monkey.is_patched())
        monkey.patch_all()
        monkey.patch_all()
        import psycopg2.extensions, socket, threading, gevent.monkey
        print(monkey.is_patched(), psycopg2.extensions.get_wait_callback().__module__)
        print(gevent.monkey.is_module_patched("socket"), gevent.monkey.is_module_patched("threading"))
        """,
        "-W",
        "error",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["False", "True psycogreen.gevent", "True True"]


def test_importing_patches_nothing_and_starts_nothing() -> None:
    result = run(
        """
        import gc, pkgutil, importlib, threading
        import gevent, gevent.monkey
        from greenlet import greenlet
        threads = threading.active_count()
        before = sum(isinstance(thing, greenlet) for thing in gc.get_objects())
        import theatre_gevent
        for module in pkgutil.walk_packages(theatre_gevent.__path__, "theatre_gevent."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        patched = [name for name in ("socket", "threading", "time", "os", "ssl", "select", "subprocess", "queue")
                   if gevent.monkey.is_module_patched(name)]
        after = sum(isinstance(thing, greenlet) for thing in gc.get_objects())
        print(patched, after - before, threading.active_count() - threads)
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[] 0 0"


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "SystemExit"])
def test_what_is_to_end_the_program_does_not_stay_in_an_actor(name: str) -> None:
    result = run(
        f"""
        from theatre_gevent import monkey; monkey.patch_all()
        import gevent
        from theatre_gevent import Host, Ref
        def receive(ctx):
            if ctx.message == "end":
                raise {name}(3)
        host = Host().start()
        host.register_actor("a", receive)
        host.send(Ref("a", "1"), "end")
        try:
            gevent.sleep(10)
            print("it stayed in there")
        except {name}:
            print("it came out")
        host.stop()
        print(host.state)
        """
    )
    assert result.stdout.splitlines() == ["it came out", "stopped"], result.stderr


def test_a_program_ends_by_itself_after_stop() -> None:
    """No timer, watcher or greenlet of a stopped host keeps a program alive."""
    result = run(
        """
        from theatre_gevent import monkey; monkey.patch_all()
        import gevent
        from theatre_gevent import Host, Ref
        with Host() as host:
            host.register_actor("a", lambda ctx: ctx.reply(ctx.message))
            for number in range(100):
                host.request(Ref("a", str(number)), "x", 600)
                host.send(Ref("a", str(number)), "x")
        gevent.wait()
        print("end")
        """,
        "-W",
        "error",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
