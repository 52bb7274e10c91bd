"""Three hosts in a cluster, echo actors, and room to play. Ends with Ctrl+C.

    playground.py                        all three in this process, in a cluster without a database
    playground.py -dsn DSN               the same with Postgres; DSN is a connection string
    playground.py -dsn embedded          the same with a private Postgres, which is removed at the end
    playground.py [-dsn DSN] a|b|c       one of the three: start each in a terminal of its own

Stop one to see what the others make of it: with Postgres its actors move to them.
"""

from theatre_gevent import monkey

monkey.patch_all()

import sys

from theatre_gevent import TheatreError
from theatre_gevent.cli.playground import ADDRESSES, play

USAGE = f"usage: playground.py [-dsn DSN | -dsn embedded] [{' | '.join(ADDRESSES)}]"


def main() -> None:
    match sys.argv[1:]:
        case ["-dsn", given, *names]:
            dsn: str | None = given
        case names:
            dsn = None
    if len(names) > 1 or not set(names) <= set(ADDRESSES) or (names and dsn == "embedded"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    try:
        play(names[0] if names else None, dsn, "python examples/playground.py", "-dsn")
    except TheatreError as error:
        sys.exit(f"playground.py: {error}")
    except KeyboardInterrupt:  # before all three were up
        sys.exit(130)


if __name__ == "__main__":
    main()
