"""A host with schedules as a program of its own, told what to do in lines of JSON: a victim for faults.

    python -m tests.chaos.schedule_host '{"host_id": "b", "dsn": "...", "audit": "/tmp/b.log", "options": {}}'

It writes a line when it is ready, then answers each line of its standard input with one. What its actors handle goes
into the file `audit`, each message a line that is there before the handler returns, whatever happens to the process.
"""

from theatre_gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from itertools import count, islice  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from theatre_gevent import Context, Host, Ref  # noqa: E402


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    host = Host(
        host_id=given["host_id"],
        listen="127.0.0.1:0",
        dsn=given["dsn"],
        safety_margin=1.0,
        freeze_grace_period=0.3,
        log_level=given.get("log_level", "CRITICAL"),
        **given["options"],
    )
    audit = os.open(given["audit"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def receive(ctx: Context) -> None:
        if ctx.schedule_id is not None and ctx.due is not None:
            early = ctx.due.timestamp() - time.time()
            line = [ctx.schedule_id, ctx.occurrence, ctx.attempt, early, host.host_id]
            os.write(audit, json.dumps(line).encode() + b"\n")
            gevent.sleep(300 if ctx.message == "hold" and ctx.attempt == 1 else 0.001)

    host.register_actor("a", receive)
    host.start()
    write({"ready": True})
    mine = (ref for ref in (Ref("a", f"held{n}") for n in count()) if host.ring_owner(ref) == host.host_id)
    stdin = FileObject(sys.stdin.fileno(), "rb", close=False)
    while line := stdin.readline():
        order: dict[str, Any] = json.loads(line)
        answer: Any = None
        if order["do"] == "make":  # so many single messages, due within so many seconds
            number, within = order["number"], order["within"]
            tasks = [
                gevent.spawn(host.send_after, Ref("a", str(index % 200)), index, within * index / number)
                for index in range(number)
            ]
            gevent.joinall(tasks, raise_error=True)
            answer = [task.value for task in tasks]
        elif order["do"] == "hold":  # so many whose first attempts do not end, for actors of their own that live here
            answer = [host.send_after(ref, "hold", 0) for ref in islice(mine, order["number"])]
        elif order["do"] == "recur":
            answer = [host.send_cron(Ref("a", f"cron{n}"), n, "* * * * *") for n in range(order["number"])]
        elif order["do"] == "stop":
            host.stop()
        write({"answer": answer, "state": host.state, "metrics": host.metrics.snapshot()})


def write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
