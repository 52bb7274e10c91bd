"""`python -m theatre_gevent.loadtest`: the load test without loadtest.py, and the processes that it starts."""

from __future__ import annotations

import os
import signal
import sys


def _main() -> int:
    # The imports take a while, and Ctrl+C would show where they were; `cli` listens in a better way later.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from theatre_gevent import monkey

    monkey.patch_all()
    from .children import CHILD_FLAG

    if sys.argv[1:2] == [CHILD_FLAG]:
        from .child import main as run_child

        return run_child()
    from .cli import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
