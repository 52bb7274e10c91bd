"""Claims and releases of actors a second, by the size of the batch, on a PostgreSQL of its own or a given one.

python benchmarks/claims.py [-dsn DSN] [-actors N] [-rounds N]

Each batch is one statement on one connection, one after the other, which is how a host asks. The private server writes
without fsync; with a given one a disk's latency adds to each statement.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import random
import secrets
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from time import perf_counter, process_time

from psycopg2.extensions import make_dsn

from report import Parser, machine, positive, table, versions
from theatre_gevent import DatabaseError, InvalidOption, Ref, migrate_schema
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.green import GreenConnection, connect
from theatre_gevent.cluster.store import Life
from theatre_gevent.embedded import EmbeddedPostgres, EmbeddedPostgresError

SIZES = (100, 1000, 5000)
TIMEOUT = 60.0


def life(connection: GreenConnection, host_id: str) -> Life:
    """Register a life of a host."""
    one = Life(host_id, postgres.next_epoch(connection))
    postgres.register(connection, one, "127.0.0.1:1", TIMEOUT)
    return one


def batches(actors: int, size: int) -> list[list[Ref]]:
    """Return new refs whose ids come in no order."""
    return [
        [Ref("player", f"{random.getrandbits(60):015x}") for _ in range(size)] for _ in range(max(1, actors // size))
    ]


class Times:
    """What each kind of statement took.

    Attributes:
        wall: For each kind and size, actors a second in each round.
        own: The same in microseconds of this process for each actor.
    """

    def __init__(self) -> None:
        self.wall: dict[tuple[str, int], list[float]] = {}
        self.own: dict[tuple[str, int], list[float]] = {}

    def take(self, kind: str, size: int, work: list[list[Ref]], statement: Callable[[list[Ref]], int]) -> None:
        """Time one statement for each batch; each must have done the whole batch."""
        actors = sum(map(len, work))
        begin, busy = perf_counter(), process_time()
        done = sum(statement(batch) for batch in work)
        took = perf_counter() - begin
        if done != actors:
            sys.exit(f"{kind}: {done} of {actors} actors")
        self.wall.setdefault((kind, size), []).append(actors / took)
        self.own.setdefault((kind, size), []).append((process_time() - busy) / actors * 1e6)


def measure(connection: GreenConnection, times: Times, actors: int) -> None:
    """Do everything once with each size of batch."""
    for size in SIZES:
        first, second = life(connection, "first"), life(connection, "second")
        work, numbers = batches(actors, size), count(1)

        def claim(one: Life, refs: list[Ref], numbers: Iterator[int] = numbers) -> int:
            claimed = postgres.claim(connection, one, next(numbers), refs)
            return len(claimed.mine) or len(claimed.foreign)

        times.take("claim, nobody's", size, work, lambda refs, one=first: claim(one, refs))  # type: ignore[misc]
        times.take("claim, one's own", size, work, lambda refs, one=first: claim(one, refs))  # type: ignore[misc]
        times.take("claim, another's", size, work, lambda refs, one=second: claim(one, refs))  # type: ignore[misc]
        postgres.fence_self(connection, first)
        times.take("claim, a dead host's", size, work, lambda refs, one=second: claim(one, refs))  # type: ignore[misc]

        def release(refs: list[Ref], one: Life = second, number: int = next(numbers)) -> int:
            return postgres.release(connection, one, number, refs)

        times.take("release", size, work, release)
        postgres.fence_self(connection, second)


def main() -> None:
    """Print the table."""
    parser = Parser(description=__doc__, prefix_chars="-")
    parser.add_argument("-dsn", help="of a server where databases may be made; by default a private one")
    parser.add_argument("-actors", type=positive, default=20_000, help="in the table at a time (20000)")
    parser.add_argument("-rounds", type=positive, default=3, help="of everything; the median counts (3)")
    options = parser.parse_args()
    times = Times()
    with ExitStack() as stack:
        try:
            dsn = options.dsn or stack.enter_context(EmbeddedPostgres()).dsn
            admin = stack.enter_context(closing(connect(dsn, statement_timeout=TIMEOUT)))
            name = f"theatre_claims_{secrets.token_hex(4)}"
            admin.run(f"CREATE DATABASE {name} TEMPLATE template0")
            stack.callback(admin.run, f"DROP DATABASE {name} WITH (FORCE)")
            own = make_dsn(dsn, dbname=name)
            migrate_schema(own)
            connection = stack.enter_context(closing(connect(own, statement_timeout=TIMEOUT)))
        except (DatabaseError, InvalidOption, EmbeddedPostgresError) as error:
            parser.error(str(error))
        version = connection.run("SHOW server_version")[0][0]
        print(f"{machine()}, {versions('gevent', 'psycopg2-binary')}, PostgreSQL {version}")
        for _ in range(options.rounds):
            measure(connection, times, options.actors)
        connection.close()
    kinds = list(dict.fromkeys(kind for kind, _ in times.wall))
    rows = [
        [kind]
        + [f"{statistics.median(times.wall[kind, size]):,.0f}".replace(",", " ") for size in SIZES]
        + [f"{statistics.median(times.own[kind, SIZES[-1]]):.1f} us"]
        for kind in kinds
    ]
    print("\nactors a second, in batches of")
    print(table(["", *map(str, SIZES), "this process"], rows))


if __name__ == "__main__":
    main()
