"""`python -m theatre_gevent` and the command `theatre`: patches first where hosts run, and goes on with `cli`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command and return its exit code."""
    from .cli.arguments import CHILD, RUNS_HOSTS

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command in RUNS_HOSTS or sys.argv[1:2] == [CHILD]:
        from theatre_gevent import monkey

        monkey.patch_all()
    if sys.argv[1:2] == [CHILD]:
        from .cli.child import main as run_child

        return run_child()
    from .cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
