"""Coverage-guided fuzzing of what the admin server is asked: addresses, parameters, headers, bodies. Not in the suite.

    pip install atheris
    python -m tests.fuzz.fuzz_admin -max_total_time=300

See `tests.fuzz.targets` for what must hold. What breaks it ends the run and is left in a file.
"""

from theatre_gevent import monkey

monkey.patch_all()

import logging  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from tempfile import TemporaryDirectory  # noqa: E402

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: E402

with atheris.instrument_imports(include=["theatre_gevent.admin", "theatre_gevent.logic.paging"]):
    from theatre_gevent.admin import app as app

from tests.fuzz.targets import AdminServers, admin_seeds  # noqa: E402

if __name__ == "__main__":
    logging.disable()  # each order that is obeyed would be a line
    servers = AdminServers()
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(admin_seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], servers.one_input)
        atheris.Fuzz()
