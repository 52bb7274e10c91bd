"""The load test: `python loadtest.py -profile small -duration 10s`, or `-help`."""

from theatre_gevent import monkey

monkey.patch_all()

import sys

from theatre_gevent.loadtest.cli import main

if __name__ == "__main__":
    sys.exit(main())
