"""Structured logs: fields, JSON, and a full pipe that stalls nobody."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gevent.monkey import get_original

from tests.conftest import MakeHost
from tests.support import drained, until
from theatre_gevent import Context, InvalidOption, Ref, RemoteActorError, logs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("theatre_gevent")
    before = root.level, ours.level, list(root.handlers)
    yield
    for handler in list(root.handlers):
        if handler not in before[2]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[0])
    ours.setLevel(before[1])


def test_what_a_host_logs_is_json_with_host_and_ref(make_host: MakeHost, tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    handler = logs.configure(format="json", level="INFO", descriptor=descriptor)
    host = make_host(host_id="here")

    def odd(ctx: Context) -> None:
        if ctx.message == "x":
            raise ValueError("odd\nindeed")

    host.register_actor("odd", lambda: type("Odd", (), {"receive": staticmethod(odd)})())
    with pytest.raises(RemoteActorError):
        host.request(Ref("odd", "1"), "x")
    logging.getLogger("shop").warning("sold %s", "out", extra={"count": 3, "thing": Ref("a", "b")})
    host.freeze()
    host.unfreeze()
    handler.flush()
    os.close(descriptor)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    raised = [line for line in lines if line["logger"] == "theatre_gevent.actor"]
    assert len(raised) == 1, "each error is logged once"
    assert (raised[0]["host"], raised[0]["ref"], raised[0]["level"]) == ("here", "odd/1", "ERROR")
    assert raised[0]["error"] == "ValueError: odd\nindeed"
    assert "in odd" in raised[0]["traceback"]
    sold = next(line for line in lines if line["logger"] == "shop")
    assert (sold["message"], sold["count"], sold["thing"], sold["host"], sold["ref"]) == (
        "sold out", 3, "a/b", "here", None,
    )  # fmt: skip
    frozen = next(line for line in lines if line["message"] == "host here freezes")
    assert (frozen["host"], frozen["ref"]) == ("here", None)


def test_of_two_hosts_each_names_itself(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    one, _ = make_host(host_id="one"), make_host(host_id="two")
    one.freeze()
    one.unfreeze()
    assert {getattr(record, "theatre_host", None) for record in caplog.records} == {"one"}
    record = logging.makeLogRecord({})
    logs.Fields().filter(record)
    assert vars(record)["theatre_host"] is None


def test_a_full_pipe_drops_and_counts_and_stalls_nobody() -> None:
    reading, writing = os.pipe()
    handler = logs.configure(descriptor=writing, limit=100, level="INFO")
    log = logging.getLogger("shop")
    for number in range(2000):  # 2 MB, and nobody reads
        log.info("%d %s", number, "x" * 1000)
    dropped = handler.writer.dropped
    assert 1000 < dropped < 2000
    assert not handler.writer.flush(0.01)
    os.set_blocking(reading, False)
    text = b""
    while not handler.writer.flush(0.05):
        text += drained(reading)
    log.info("there is room")
    handler.flush()
    text += drained(reading)
    lines = text.decode().splitlines()
    kept = [line for line in lines if " INFO shop: " in line and "room" not in line]
    assert len(kept) + dropped == 2000
    # In several lines where there was room in between.
    assert sum(map(int, re.findall(r"(\d+) log lines were dropped", text.decode()))) == dropped
    assert any("there is room" in line for line in lines)
    place, numbers = 0, []
    for line in lines[:-1]:  # each notice stands where the lines are missing that it counts
        if " INFO shop: " in line:
            numbers.append(int(line.split(" INFO shop: ")[1].split()[0]))
            assert numbers[-1] == place
            place += 1
        else:
            found = re.search(r"(\d+) log lines were dropped", line)
            assert found is not None
            place += int(found[1])
    assert place == 2000
    os.close(reading)
    os.close(writing)


def test_what_can_not_be_written_harms_nobody() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    handler = logs.configure(descriptor=descriptor)
    logging.getLogger("shop").warning("unread")
    assert handler.writer.flush(10)
    assert handler.writer.dropped == 1
    os.close(descriptor)


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = logs.Writer(writing)
    size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 65536
    whole = b"y" * (3 * size)
    writer.put(whole)
    got = b""
    while len(got) < len(whole):
        got += os.read(reading, size)
    assert got == whole
    os.close(reading)
    os.close(writing)


def test_configuring_again_replaces_and_mistakes_are_named() -> None:
    first = logs.configure()
    logging.getLogger("shop").warning("a thread is at work")
    threads = psutil.Process().num_threads()
    second = logs.configure(format="json")
    until(lambda: psutil.Process().num_threads() == threads - 1)
    assert first not in logging.getLogger().handlers
    assert second in logging.getLogger().handlers
    with pytest.raises(InvalidOption, match="one of text, json, got 'xml'"):
        logs.configure(format="xml")
    with pytest.raises(InvalidOption, match="one of DEBUG"):
        logs.configure(level="LOUD")


RAISING = """
import logging
from theatre_gevent import Host, Ref, StopActor, monkey
monkey.patch_all()

def boom(ctx):
    if ctx.message == "boom":
        raise ValueError("the reason")

{configure}
with Host({options}) as host:
    host.register_actor("boom", boom)
    host.send(Ref("boom", "1"), "boom")
"""


@pytest.mark.parametrize("options", ["", 'admin_addr="127.0.0.1:0"'])
@pytest.mark.parametrize(
    ("configure", "written"),
    [
        ("", True),
        ("logging.getLogger('theatre_gevent').addHandler(logging.NullHandler())", False),
        ("logging.basicConfig(filename='/dev/null')", False),
    ],
)
def test_without_any_configuration_errors_go_to_stderr(options: str, configure: str, written: bool) -> None:
    program = RAISING.format(options=options, configure=configure)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert ("ValueError: the reason" in done.stderr) == written, done.stderr
    assert done.stderr.count("boom/1") == written, "once"
    assert "listens at" not in done.stderr, "what is no warning is not written"


def test_what_json_has_no_form_for_becomes_text(tmp_path: Path) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    handler = logs.configure(format="json", descriptor=descriptor)
    for odd in ({("a", 1): 2}, float("nan"), cycle, {1, 2}):
        logging.getLogger("app").warning("one", extra={"odd": odd})
    handler.close()
    os.close(descriptor)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["odd"] for line in lines] == ["{('a', 1): 2}", "nan", "[[...]]", "{1, 2}"]


def test_the_first_lines_of_several_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that came while another one began found no queue, and what it logged raised."""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = logs.Writer(descriptor)
    start = get_original("_thread", "start_new_thread")
    inside: list[bool] = []

    def start_slowly(*args: Any) -> Any:
        if not inside:
            inside.append(True)
            assert writer.put(b"second\n")  # as another thread would, just now
        return start(*args)

    def original(module: str, name: str) -> Any:
        return start_slowly if name == "start_new_thread" else get_original(module, name)

    monkeypatch.setattr(logs, "get_original", original)
    assert writer.put(b"first\n")
    assert writer.flush()
    until(lambda: sorted((tmp_path / "log").read_text().split()) == ["first", "second"])
    os.close(descriptor)
