"""One host for the dashboard to look at, in a process of its own: takes an order, a JSON object, from each line."""

from theatre_gevent import monkey

monkey.patch_all()

import json
import sys
from typing import Any

import gevent
from gevent.fileobject import FileObject

from theatre_gevent import Context, Host, Initialize, Ref, Shutdown


class Account:
    """Counts; raises when it is told to."""

    def __init__(self) -> None:
        self.count = 0

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case Initialize() | Shutdown():
                return
            case "raise":
                raise ValueError("<b>overdrawn</b>")
            case "wait":
                gevent.sleep(60)
        self.count += 1
        if ctx.is_request:
            ctx.reply(self.count)


def load(host: Host) -> None:
    number = 0
    while host.state == "active":
        number += 1
        host.send(Ref("account", f"busy-{number % 50}"), number)
        if number % 5 == 0:
            host.request(Ref("account", f"asked-{number % 20}"), number)
        gevent.sleep(0.002)


def do(host: Host, order: dict[str, Any]) -> Any:
    match order:
        case {"peers": peers}:
            host.set_peers(peers)
        case {"load": True}:
            gevent.spawn(load, host)
        case {"send": [kind, actor_id, body], "times": times}:
            for _ in range(times):
                host.send(Ref(kind, actor_id), body)
        case {"spawn": count}:
            for number in range(count):
                host.spawn_local(Ref("account", f"many-{number:05}"))
        case {"schedule": [kind, actor_id, body]}:
            return host.send_after(Ref(kind, actor_id), body, 3600)
        case {"freeze": True}:
            host.freeze()
        case {"snapshot": True}:
            return host.metrics.snapshot()
    return None


def main() -> None:
    options = json.loads(sys.argv[1])
    host = Host(admin_addr="127.0.0.1:0", **options)
    for kind in ("account", "shop/till"):
        host.register_actor(kind, Account)
    with host:
        print(json.dumps({"address": host.address, "admin": host.admin_address}), flush=True)
        for line in FileObject(0, "rb", close=False):
            print(json.dumps({"done": do(host, json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
