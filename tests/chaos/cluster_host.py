"""One host of a cluster as a program of its own, told what to do in lines of JSON: a victim for faults.

    python -m tests.chaos.cluster_host '{"host_id": "b", "listen": "127.0.0.1:0"}'

It writes a line with its address, then answers each line of its standard input with one.
"""

from theatre_gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from gevent.fileobject import FileObject  # noqa: E402

from tests.chaos.traffic import Traffic  # noqa: E402
from theatre_gevent import Host, SystemClock  # noqa: E402
from theatre_gevent.cluster.router import ClusterRouter  # noqa: E402
from theatre_gevent.cluster.transport import Limits, Transport  # noqa: E402


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    host = Host(host_id=given["host_id"], log_level="ERROR", request_timeout=2.0, drain_timeout=2.0)
    host.set_transport(
        Transport(
            given.get("claims", given["host_id"]),
            given["listen"],
            epoch=int(SystemClock().time() * 1e6),
            secret=given.get("secret"),
            limits=Limits(**given.get("limits", {})),
        )
    )
    traffic = Traffic(host)
    host.start()
    write({"address": host.address})
    stdin = FileObject(sys.stdin.fileno(), "rb", close=False)
    while line := stdin.readline():
        order: dict[str, Any] = json.loads(line)
        if order["do"] == "peers":
            host.set_peers(order["peers"])
        elif order["do"] == "start":
            traffic.start(order["owners"])
        elif order["do"] == "halt":
            traffic.halt()
        elif order["do"] == "stop":
            host.stop()
        router = host._dispatcher.router
        assert isinstance(router, ClusterRouter)
        write({**traffic.report(), "pending": len(router.pending), "state": host.state})
    host.stop()


def write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
