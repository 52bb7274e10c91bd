"""What `theatre run` passes on of its hosts' output: whole lines, and with JSON nothing but JSON."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import drained
from theatre_gevent.cli import output as cli_output
from theatre_gevent.cli.output import Output
from theatre_gevent.logs import Writer

LONGEST = 65_536


def passed_on(written: bytes, folder: Path, log_format: str) -> list[bytes]:
    """Return the lines that come of what a host writes to stderr."""
    file = folder / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        writer = Writer(descriptor)
        Output(writer, log_format).pass_on(io.BytesIO(written), "host-1", is_log=True)
        assert writer.flush(20)
    finally:
        os.close(descriptor)
    return file.read_bytes().splitlines()


def records(written: bytes, folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in passed_on(written, folder, "json")]


def test_a_record_is_passed_on_as_it_is_and_other_lines_become_records(tmp_path: Path) -> None:
    record = b'{"level":  "INFO", "message": "fine", "host": "x"}'
    lines = [record, b"Traceback:", b"{'a': 1}", b'{"a": 1} {', b"[1]", b'{"a": "\xff"}', b""]
    first, *others = passed_on(b"\r\n".join(lines) + b"\n" + b"the last", tmp_path, "json")
    assert first == record
    made = [json.loads(line) for line in others]
    assert [each["message"] for each in made] == [
        "Traceback:", "{'a': 1}", '{"a": 1} {', "[1]", '{"a": "\ufffd"}', "", "the last",
    ]  # fmt: skip
    assert {(each["host"], each["level"], each["logger"]) for each in made} == {("host-1", "ERROR", "stderr")}
    assert not any("piece" in each for each in made)


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 2 * LONGEST, 5 * LONGEST + 7])
def test_a_record_that_is_too_long_becomes_several_that_are_json(length: int, tmp_path: Path) -> None:
    start, end = '{"message": "', '"}'
    long = start + "x" * (length - len(start) - len(end)) + end
    after = {"message": "short"}
    made = records(f"{long}\n{json.dumps(after)}\n{long}\n".encode(), tmp_path)
    count = -(-length // LONGEST)
    assert made[count] == after
    for pieces in (made[:count], made[count + 1 :]):
        assert [piece["piece"] for piece in pieces] == list(range(1, count + 1))
        assert "".join(piece["message"] for piece in pieces) == long
        assert {piece["host"] for piece in pieces} == {"host-1"}


def test_the_longest_record_is_passed_on_whole(tmp_path: Path) -> None:
    longest = {"message": "x" * (LONGEST - 1 - len('{"message": ""}'))}
    assert records(f"{json.dumps(longest)}\n".encode(), tmp_path) == [longest]


def test_text_is_prefixed_and_long_lines_come_in_pieces(tmp_path: Path) -> None:
    lines = passed_on(b"x" * LONGEST + b"\n\n" + b"y" * (LONGEST + 1) + b"\n", tmp_path, "text")
    assert lines == [b"host-1 | " + text for text in (b"x" * LONGEST, b"", b"y" * LONGEST, b"y")]


def test_printed_lines_that_nobody_reads_are_missed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(cli_output, "_STDOUT", writing)
    output = Output(Writer(2), "text")
    output.pass_on(io.BytesIO(b"x" * 1000 + b"\n" + b"line\n" * 30_000), "host-1", is_log=False)
    os.set_blocking(reading, False)
    got = b""
    while not output._printed.flush(0.02):
        got += drained(reading)
    output.flush()
    got += drained(reading)
    os.close(writing)
    os.close(reading)
    lost = 30_001 - got.count(b"\n")
    assert lost > 10_000
    assert re.findall(r"(\d+) lines that hosts printed were dropped", caplog.messages[-1]) == [str(lost)]
