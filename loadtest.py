"""The load test: `python loadtest.py -profile small -duration 10s`, or `-help`."""

import os
import signal

if __name__ == "__main__":
    # The imports take half a second, and Ctrl+C would show where they were; `cli` listens in a better way later.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from theatre_gevent import monkey

monkey.patch_all()

import sys

from theatre_gevent.loadtest.cli import main

if __name__ == "__main__":
    sys.exit(main())
