"""What a scrape of /metrics costs a host under full load: windows with one and without, in turns, in one process.

A machine that gets slower or faster by a tenth from minute to minute hides a cost of one in a hundred between two runs.
So neighbouring windows of a quarter of a second are compared, of which one has a scrape; the median of many such pairs,
over four, is what a scrape every second costs. The reader is a process of its own.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import random
import subprocess
import sys
import time
from statistics import median, quantiles

import gevent

from mix import Echo
from report import Parser, machine, positive, table, versions
from theatre_gevent import Host, Ref

ACTORS = 1000
WORKERS = 10
WINDOW = 0.25
READER = "import sys, urllib.request\nfor url in sys.stdin: urllib.request.urlopen(url.strip()).read()"


class Load:
    """Workers that send and ask until they are stopped."""

    def __init__(self, host: Host) -> None:
        self.operations = 0
        self._stopped = False
        self._host = host
        self._refs = [Ref("echo", str(number)) for number in range(ACTORS)]
        self._workers = [gevent.spawn(self._work, seed) for seed in range(WORKERS)]

    def stop(self) -> None:
        self._stopped = True
        gevent.joinall(self._workers, raise_error=True)

    def _work(self, seed: int) -> None:
        pick, send, request = random.Random(seed).random, self._host.send, self._host.request
        while not self._stopped:
            ref = self._refs[int(pick() * ACTORS)]
            if pick() < 0.7:
                send(ref, "tick")
            else:
                request(ref, "ping", 3.0)
            self.operations += 1


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=positive, default=160, help="of windows, half a second each; 160")
    options = parser.parse_args()
    print(f"{machine()}\n{versions('theatre_gevent', 'gevent', 'prometheus-client')}\n")
    with Host(host_id="scrape", admin_addr="127.0.0.1:0", log_level="ERROR") as host:
        host.register_actor("echo", Echo)
        load = Load(host)
        reader = subprocess.Popen([sys.executable, "-c", READER], stdin=subprocess.PIPE, text=True)
        ask = reader.stdin
        assert ask is not None
        url = f"http://{host.admin_address}/metrics\n"

        def window(scraped: bool) -> tuple[float, float]:
            """Return operations a second, and microseconds of processor time for each."""
            if scraped:
                ask.write(url)
                ask.flush()
            before, began, cpu = load.operations, time.monotonic(), time.process_time()
            gevent.sleep(WINDOW)
            done = load.operations - before
            return done / (time.monotonic() - began), 1e6 * (time.process_time() - cpu) / done

        gevent.sleep(0.5)
        window(True)  # imports what the first one needs
        gc.collect()
        gc.freeze()
        gc.disable()
        rates, costs, all_rates = [], [], []
        for pair in range(options.pairs):
            found = {scraped: window(scraped) for scraped in ((True, False) if pair % 2 else (False, True))}
            rates.append(found[True][0] / found[False][0])
            costs.append(found[True][1] / found[False][1])
            all_rates.append(found[False][0])
        if reader.poll() is not None:
            sys.exit("scrape.py: the reader of /metrics has ended")
        reader.kill()
        load.stop()
    lower, _, upper = quantiles(rates, n=4)
    rows = [
        ["operations/s without", f"{median(all_rates):,.0f}"],
        [
            "a window with a scrape against its neighbour",
            f"{median(rates):.3f} (quartiles {lower:.3f} and {upper:.3f})",
        ],
        ["lost by a scrape every second", f"{(1 - median(rates)) * WINDOW:.2%} of the throughput"],
        ["more by a scrape every second", f"{(median(costs) - 1) * WINDOW:.2%} CPU per operation"],
    ]
    print(table(["scrape of /metrics", "median"], rows))


if __name__ == "__main__":
    main()
