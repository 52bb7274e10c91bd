"""What the load test prints, on streams that are there and on some that are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from theatre_gevent.loadtest.console import Console, put


def test_lines_go_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("so")
    console.complain("oh")
    assert capsys.readouterr() == ("so\n", "loadtest.py: oh\n")
    assert console.lost is None


def test_a_stream_that_fails_takes_the_rest_in_silence() -> None:
    with Path("/dev/full").open("w") as stream:
        assert put("first", stream) == "No space left on device"
        assert put("second", stream) is None
    # and its end did not raise for what it still held


def test_a_reader_that_has_ended_is_no_error() -> None:
    reader, writer = os.pipe()
    os.fdopen(reader).close()  # gevent's `os.close` takes its time
    with os.fdopen(writer, "w") as stream:
        assert put("text", stream) == "Broken pipe"


def test_the_first_loss_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    monkeypatch.setattr(sys, "stderr", None)
    console.complain("nobody hears it")
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console.say("first")
        console.say("second")
        assert console.lost == "No space left on device"
    monkeypatch.setattr(sys, "stdout", None)
    assert put("text", sys.stdout) == "it is closed"


def test_numbers_of_closed_streams_are_not_given_to_others() -> None:
    code = (
        "import os\n"
        "from theatre_gevent.loadtest.console import fill_gaps\n"
        "os.close(0); os.close(2)\n"
        "fill_gaps()\n"
        "opened = os.open('/', os.O_RDONLY)\n"
        "print(os.readlink('/dev/fd/0'), os.readlink('/dev/fd/2'), opened > 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "/dev/null /dev/null True\n"
