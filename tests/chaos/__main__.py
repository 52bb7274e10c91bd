"""Does bad things to a cluster, as a number decides, and tells whether it kept its promises. See docs/chaos.md.

python -m tests.chaos --seed 7 --minutes 1
"""

from theatre_gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from tests.chaos.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
