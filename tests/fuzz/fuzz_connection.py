"""Coverage-guided fuzzing of the handshake, with somebody in the middle, and of connections. Not part of the suite.

    pip install atheris
    python -m tests.fuzz.fuzz_connection -max_total_time=300

See `tests.fuzz.targets` for what must hold. What breaks it ends the run and is left in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["theatre_gevent.logic"]):
    from tests.fuzz.targets import CONNECTION_SEEDS, HONEST, connection_input, handshake_input


def one_input(data: bytes) -> None:
    """Run one input: the first byte says what is fuzzed."""
    if data and data[0] % 2:
        handshake_input(data[1:])
    else:
        connection_input(data[1:])


if __name__ == "__main__":
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(CONNECTION_SEEDS):
            (Path(corpus) / f"connection{number}").write_bytes(b"\0" + seed)
        (Path(corpus) / "handshake").write_bytes(b"\1" + HONEST)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()
