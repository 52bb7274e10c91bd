"""A host is its process's own: a forked child can't use it, and the parent does not notice that there was one."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from theatre_gevent import monkey
monkey.patch_all()
import os, sys
from urllib.request import urlopen
import gevent
import ujson
from theatre_gevent import Host, HostNotRunning, Ref

A = Ref("echo", "1")
peer = Host(host_id="peer", listen="127.0.0.1:0").start()
host = Host(host_id="a", listen="127.0.0.1:0", admin_addr="127.0.0.1:0").start()
for one, other in ((host, peer), (peer, host)):
    one.register_actor("echo", lambda ctx: ctx.reply((ctx.message, os.getpid())))
    one.set_peers({other.host_id: other.address})
refs = [Ref("echo", str(number)) for number in range(20)]
assert [host.request(ref, 1)[1] for ref in refs] == [os.getpid()] * 20
assert any(host.ring_owner(ref) == "peer" for ref in refs)

child = os.fork()
if child == 0:
    for verb in (lambda: host.send(A, 1), lambda: host.request(A, 1), lambda: host.spawn_local(A)):
        try:
            verb()
        except HostNotRunning as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError("a copy of the host works")
    gevent.sleep(0.3)  # whatever the copied greenlets do, they do it now
    host.stop()
    assert host.state == "stopped"
    with Host() as own:
        own.register_actor("echo", lambda ctx: ctx.reply(os.getpid()))
        assert own.request(A, 1) == os.getpid()
    os._exit(0)

until = gevent.Timeout.start_new(20)
answers = 0
while True:
    pid, status = os.waitpid(child, os.WNOHANG)
    for ref in refs:
        assert host.request(ref, answers) == (answers, os.getpid())
        answers += 1
    with urlopen(f"http://{host.admin_address}/debug/vars", timeout=10) as answer:
        assert ujson.loads(answer.read())["pid"] == os.getpid(), "the copy answers"
    if pid:
        break
    gevent.sleep(0.005)
assert os.waitstatus_to_exitcode(status) == 0
for ref in refs:
    assert host.request(ref, "after") == ("after", os.getpid())
for one in (host, peer):
    counts = one.metrics.snapshot()
    assert counts["requests_timed_out"] == 0, counts
    assert counts["peers_up"] == 1, counts
host.stop()
peer.stop()
print("ok", answers >= 20)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
def test_a_forked_child_is_refused_and_the_parent_goes_on() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=False)
    assert (run.returncode, run.stdout) == (0, "ok True\n"), run.stderr
