"""The command `theatre` with real processes: hosts that die and come back, drain, and are looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

import theatre_gevent
from tests.integration.documents import files_of
from tests.support import gone, until
from theatre_gevent import Host, Ref, SystemClock

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import logging
import os
import sys
import gevent
from theatre_gevent import Initialize, Ref, Shutdown
log = logging.getLogger("shop")

class Cart:
    def receive(self, ctx):
        if ctx.message == "boom":
            raise ValueError("odd")
        if isinstance(ctx.message, str):
            ctx.reply(ctx.message)

def setup(host):
    host.register_actor("cart", Cart)
    print("set up", host.host_id)
    return work

def work(host):
    host.send(Ref("cart", "bad"), "boom")
    for number in range(5):
        host.request(Ref("cart", str(number)), "hello")
    log.info("worked")

def endless(host):
    host.register_actor("cart", Cart)
    return ask_for_ever

def ask_for_ever(host):
    print("asks")
    while True:
        host.request(Ref("cart", "1"), "hello")

def slow(host):
    def handle(ctx):
        if isinstance(ctx.message, Shutdown):
            print("shut down")
        elif not isinstance(ctx.message, Initialize):
            print("began", ctx.message)
            while host.state == "active":
                gevent.sleep(0.01)
            print("finished", ctx.message)

    def send(host):
        host.send(Ref("slow", "1"), "one")
        host.send(Ref("slow", "1"), "two")
        print("accepted")

    host.register_actor("slow", handle)
    return send

def stubborn(host):
    def handle(ctx):
        if ctx.message == "begin":
            print("began")
            while host.state == "active":
                gevent.sleep(0.01)
            print("drains")
            gevent.sleep(60)
    host.register_actor("slow", handle)
    return lambda host: host.send(Ref("slow", "1"), "begin")

def bad(host):
    raise RuntimeError("no way")

def quits(host):
    sys.exit(0)

def vanishes(host):
    os._exit(0)

def impatient(host):
    with gevent.Timeout(0.01, "too late"):
        gevent.sleep(10)

def wrong(host):
    return [host]

async def later(host):
    host.register_actor("cart", Cart)

def awaited(host):
    return later(host)

def returns_later(host):
    return later

def leaves(host):
    host.register_actor("slow", shuts_down)
    return end_with(host, 0)

def fails(host):
    host.register_actor("slow", shuts_down)
    return end_with(host, "no stock")

def times_out(host):
    def work(host):
        raise gevent.Timeout(1)
    return work

def shuts_down(ctx):
    if isinstance(ctx.message, Shutdown):
        print("shut down")

def end_with(host, code):
    def work(host):
        host.spawn_local(Ref("slow", "1"))
        sys.exit(code)
    return work

def actor_leaves(host):
    def handle(ctx):
        if isinstance(ctx.message, Shutdown):
            print("shut down")
            sys.exit(0)
        if ctx.message == "leave":
            sys.exit(0)
    host.register_actor("slow", handle)
    def work(host):
        host.spawn_local(Ref("slow", "1"))
        host.spawn_local(Ref("slow", "2"))
        host.send(Ref("slow", "3"), "leave")
    return work

number = 7
"""


class Command:
    """A `theatre` that runs beside shop.py; what it writes is read as it comes."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        # Without what a developer may have set, so that pipes are buffered as they are for everybody.
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "theatre_gevent", *arguments],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**usual, "PYTHONPATH": str(ROOT), **environ},
        )  # fmt: skip
        self.out: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self.process.stdout, self.out), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds."""
        clock = SystemClock()
        deadline = clock.monotonic() + 45
        while not condition():
            assert clock.monotonic() < deadline, "\n".join((*self.out[-20:], *self.errors[-40:]))
            clock.sleep(0.05)

    def lines(self, pattern: str) -> list[str]:
        """Return what was written to stderr and fits."""
        return [line for line in list(self.errors) if re.search(pattern, line)]

    def hosts(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self) -> int:
        code = self.process.wait(timeout=50)
        for reader in self._readers:
            reader.join(20)
        return code


@pytest.fixture
def theatre(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands, and lets none of their processes outlive the test."""
    started: list[Command] = []
    (tmp_path / "shop.py").write_text(PROGRAM)

    def start(*arguments: str, **environ: str) -> Command:
        started.append(Command(tmp_path, *arguments, **environ))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            family = psutil.Process(command.process.pid).children(recursive=True)
            command.process.kill()
            for process in family:
                process.kill()
        command.end()


def test_three_hosts_are_looked_at_one_dies_and_comes_back_and_all_drain(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:setup", "--hosts", "3", "--admin", "127.0.0.1:0", THEATRE_LOG_FORMAT="json")
    run.until(lambda: len(run.lines("has started at")) == 3 and len(run.lines('"worked"')) == 3)
    records = [json.loads(line) for line in list(run.errors)]
    worked = [record for record in records if record["message"] == "worked"]
    assert {record["host"] for record in worked} == {"host-1", "host-2", "host-3"}
    raised = [record for record in records if record["logger"] == "theatre_gevent.actor"]
    assert {record["ref"] for record in raised} == {"cart/bad"}
    assert {record["error"] for record in raised} == {"ValueError: odd"}
    assert all(record["host"] for record in raised)
    assert sorted(run.out) == ["set up host-1", "set up host-2", "set up host-3"]

    started = next(record["message"] for record in records if "has started at" in record["message"])
    url = started.rpartition(" ")[2]
    status = theatre("status", url)
    assert (status.end(), status.errors) == (0, [])
    assert [line.split()[:2] for line in status.out[1:]] == [[f"host-{number}", "active"] for number in (1, 2, 3)]
    page = theatre("actors", url, "--type", "cart", "--limit", "4", "--json")
    assert (page.end(), page.errors) == (0, [])
    first = json.loads(page.out[0])
    assert [entry["id"] for entry in first["actors"]] == ["0", "1", "2", "3"]
    rest = theatre("actors", url, "--type", "cart", "--after", first["next"])
    assert rest.end() == 0
    assert [line.split()[0] for line in rest.out[1:-1]] == ["cart/4", "cart/bad"]
    none = theatre("actors", url, "--prefix", "zzz")
    assert (none.end(), none.out[-1]) == (0, "0 of 0 actors")

    before = run.hosts()
    victim = before[0]
    victim.kill()
    run.until(lambda: run.lines(r"was ended by SIGKILL; it is started again in 0\.5 s"))
    run.until(lambda: len(run.lines("has started at")) == 4)
    again = next(host for host in run.hosts() if host not in before)
    again.kill()
    run.until(lambda: run.lines(r"was ended by SIGKILL; it is started again in 1 s"))
    run.until(lambda: len(run.lines("has started at")) == 5)
    family = run.hosts()
    assert len(family) == 3
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert gone(family)
    assert not run.lines("is killed")


def test_a_drained_host_stays_away_whatever_its_function_asks(theatre: Callable[..., Command]) -> None:
    token = "abc"  # noqa: S105
    run = theatre("run", "shop:endless", "--admin", "127.0.0.1:0", THEATRE_ADMIN_TOKEN=token)
    run.until(lambda: run.lines("has started, admin server at") and "host-1 | asks" in run.out)
    url = run.lines("has started, admin server at")[0].rpartition(" ")[2]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urlopen(Request(f"{url}cluster/drain", b"{}", headers), timeout=20) as answer:
        assert answer.status == 202
    assert run.end() == 0
    assert run.lines("host host-1 has stopped in good order and is not started again")
    assert run.lines("host host-1 drains, and what shop:endless returned ends: .* takes no messages")
    assert not run.lines(" ERROR |Traceback")


def test_sigterm_to_a_host_whose_function_asks_is_no_error(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:endless")
    run.until(lambda: "host-1 | asks" in run.out)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert run.lines("host host-1 drains, and what shop:endless returned ends: .* takes no messages")
    assert not run.lines(" ERROR |Traceback")


def test_sigterm_lets_accepted_messages_and_shutdown_be_handled(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:slow", "--drain-timeout", "30")
    run.until(lambda: sorted(run.out) == ["host-1 | accepted", "host-1 | began one"])
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    done = ["finished one", "began two", "finished two", "shut down"]
    assert run.out[2:] == [f"host-1 | {line}" for line in done]


def test_the_file_of_the_page_runs(theatre: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "shop.py").unlink()
    files_of("docs/command-line.md", tmp_path)
    run = theatre("run", "shop.actors:setup", "--hosts", "2")
    run.until(lambda: len(run.lines("has started at")) == 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert not run.lines(" ERROR |Traceback")


def test_hosts_end_with_the_command_that_was_killed(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:setup", "--hosts", "2")
    worked = r"^host-%d \| \S+ \S+ INFO shop: worked$"
    run.until(lambda: len(run.lines("has started at")) == 2 and all(run.lines(worked % number) for number in (1, 2)))
    family = run.hosts()
    run.process.kill()
    run.process.wait()
    run.until(lambda: gone(family))


def test_the_second_signal_ends_all_at_once(theatre: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import gevent\nfrom theatre_gevent import Ref\n"
        "def setup(host):\n    host.register_actor('slow', slow)\n"
        "    return lambda host: host.send(Ref('slow', '1'), 'x')\n"
        "def slow(ctx):\n    if ctx.message == 'x':\n        print('slow')\n        gevent.sleep(1000)\n"
    )
    run = theatre("run", "slow:setup", "--drain-timeout", "500")
    run.until(lambda: run.out == ["host-1 | slow"])
    family = run.hosts()
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: run.lines("SIGINT: all hosts drain"))
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert gone(family)


@pytest.mark.parametrize(
    ("target", "code", "complaint"),
    [
        ("shop:bad", 1, r"theatre: shop:bad raised RuntimeError: no way at .*shop\.py:\d+"),
        ("nowhere:setup", 2, r"theatre: module 'nowhere' can't be imported: ModuleNotFoundError: .*"),
        ("shop:nobody", 2, r"theatre: module 'shop' has no function 'nobody'"),
        ("shop:number", 2, r"theatre: shop:number is no function: it is a int"),
        ("shop:quits", 1, r"theatre: shop:quits did not return: sys\.exit\(0\) was called at .*/shop\.py:\d+"),
        ("shop:vanishes", 1, r"theatre: host host-\d ended with exit code 0 before it had started"),
        ("shop:impatient", 1, r"theatre: shop:impatient raised Timeout: .*too late at .*/shop\.py:\d+"),
        ("shop:later", 2, r"theatre: shop:later is an async function, .*"),
        ("shop:awaited", 2, r"theatre: shop:awaited must return a function or nothing, and returned a coroutine"),
        ("shop:wrong", 2, r"theatre: shop:wrong must return a function or nothing, and returned a list"),
        ("shop:returns_later", 2, r"theatre: what shop:returns_later returned is an async function, .*"),
    ],
)
def test_what_can_not_be_run_is_one_line(
    target: str, code: int, complaint: str, theatre: Callable[..., Command]
) -> None:
    run = theatre("run", target, "--hosts", "2", "--log-level", "WARNING")
    assert run.end() == code
    assert len(run.errors) == 1
    assert re.fullmatch(complaint, run.errors[0])


def test_a_module_that_quits_is_a_host_that_does_not_start(theatre: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "quits.py").write_text("import sys\nsys.exit(0)\n")
    run = theatre("run", "quits:setup", "--log-level", "WARNING")
    assert run.end() == 1
    assert len(run.errors) == 1
    complaint = r"theatre: module 'quits' can't be imported: sys\.exit\(0\) was called at .*/quits\.py:2"
    assert re.fullmatch(complaint, run.errors[0])


@pytest.mark.parametrize(("target", "shut_down"), [("shop:leaves", 1), ("shop:actor_leaves", 3)])
def test_sys_exit_after_the_start_is_a_good_end(target: str, shut_down: int, theatre: Callable[..., Command]) -> None:
    run = theatre("run", target)
    assert run.end() == 0
    assert run.out == ["host-1 | shut down"] * shut_down
    assert run.lines(r"host host-1 ends in good order: sys\.exit\(0\) was called at .*/shop\.py:\d+")
    assert run.lines("host host-1 has stopped in good order and is not started again")


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("shop:fails", r"ERROR .*host host-1 ends: sys\.exit\('no stock'\) was called at .*/shop\.py:\d+"),
        ("shop:times_out", r"ERROR .*host host-1 ends: what shop:times_out returned has raised"),
    ],
)
def test_a_bad_end_after_the_start_is_followed_by_another(
    target: str, complaint: str, theatre: Callable[..., Command]
) -> None:
    run = theatre("run", target)
    run.until(lambda: run.lines(r"host host-1 ended with exit code 1; it is started again in 0\.5 s"))
    assert run.lines(complaint)
    run.until(lambda: len(run.lines("host host-1 has started")) == 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == bool(run.lines("ended with exit code 1 while it drained")), "its end is as bad as the first"


def test_a_host_that_quits_when_it_is_started_again_is_started_once_more(
    theatre: Callable[..., Command], tmp_path: Path
) -> None:
    (tmp_path / "moody.py").write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "def setup(host):\n"
        "    count = Path('count')\n"
        "    number = len(count.read_text()) if count.exists() else 0\n"
        "    count.write_text('x' * (number + 1))\n"
        "    if number == 1:\n        sys.exit(0)\n"
        "    if number == 2:\n        os._exit(0)\n"
        "    return lambda host: sys.exit(7) if number == 0 else print('fine')\n"
    )
    run = theatre("run", "moody:setup")
    run.until(lambda: "host-1 | fine" in run.out)
    assert run.lines(r"could not start: moody:setup did not return: sys\.exit\(0\) was called at .* again in 1 s")
    assert run.lines(r"host host-1 ended with exit code 0; it is started again in 2 s")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0


def test_a_server_that_does_not_answer_or_needs_a_token(theatre: Callable[..., Command]) -> None:
    token = "abc"  # noqa: S105
    with Host(admin_addr="127.0.0.1:0", admin_token=token) as host:
        refused = theatre("status", f"http://{host.admin_address}")
        assert refused.end() == 2
        assert re.fullmatch(r"theatre: http://\S+ needs its token: .* THEATRE_ADMIN_TOKEN", refused.errors[0])
        allowed = theatre("status", str(host.admin_address), THEATRE_ADMIN_TOKEN=token)
        assert (allowed.end(), allowed.errors) == (0, [])
        assert allowed.out[1].split()[:2] == [host.host_id, "active"]
    away = theatre("status", "http://127.0.0.1:1")
    assert (away.end(), away.out) == (1, [])
    assert away.errors == ["theatre: no admin server answers at http://127.0.0.1:1: [Errno 111] Connection refused"]


def test_migrate_twice_then_run_on_it(theatre: Callable[..., Command], dsn: str) -> None:
    for _ in range(2):
        migrate = theatre("migrate", dsn)
        assert (migrate.end(), migrate.errors) == (0, [])
        assert re.fullmatch(r"the database has version \d+ of the tables", migrate.out[0])
    run = theatre("run", "shop:setup", "--hosts", "2", "--no-migrate", THEATRE_DSN=dsn)
    run.until(lambda: len(run.lines("shop: worked")) == 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    away = theatre("migrate", "postgresql://nobody@127.0.0.1:1/none")
    assert (away.end(), len(away.errors)) == (1, 1)


def test_an_embedded_database(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:setup", "--hosts", "2", "--dsn", "embedded")
    run.until(lambda: len(run.lines("shop: worked")) == 2)
    family = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert gone(family)


def test_the_script_that_the_installation_makes_is_the_command() -> None:
    script = Path(sys.executable).with_name("theatre")
    if not script.exists():
        assert not os.environ.get("CI"), f"there is no {script}"
        pytest.skip("theatre_gevent is not installed beside this interpreter")
    done = subprocess.run(
        [script, "--version"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"theatre_gevent {theatre_gevent.__version__} (")


def test_the_playground_is_a_command_too(theatre: Callable[..., Command]) -> None:
    play = theatre("playground")
    play.until(lambda: "Running until Ctrl+C." in play.out)
    assert any("in three terminals: theatre playground a, then b, then c" in line for line in play.out)
    play.process.send_signal(signal.SIGINT)
    assert (play.end(), play.out[-1], play.errors) == (0, "stopped", [])


def test_a_host_that_a_receiver_has_stopped_is_started_again(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:setup", "--set", "panic_recovery=off")
    run.until(lambda: run.lines(r"host host-1 ended with exit code 1; it is started again in 0\.5 s"))
    run.process.send_signal(signal.SIGTERM)
    run.end()


def test_a_host_that_dies_while_it_drains_is_told(theatre: Callable[..., Command]) -> None:
    run = theatre("run", "shop:stubborn", "--drain-timeout", "30")
    run.until(lambda: "host-1 | began" in run.out)
    run.process.send_signal(signal.SIGTERM)
    run.until(lambda: run.lines("all hosts drain"))
    run.until(lambda: "host-1 | drains" in run.out)
    for host in run.hosts():
        host.kill()
    assert run.end() == 1
    assert run.lines("ERROR .*host host-1 .*SIGKILL.* while it drained")


def test_a_machine_without_room_for_another_host_is_one_line(tmp_path: Path) -> None:
    """Descriptors, here: each host's process takes four of the command's."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    program = f"ulimit -n 24; exec {sys.executable} -m theatre_gevent run shop:slow --hosts 12"
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"^theatre: host host-\d+ can't be started: Too many open files$", done.stderr, re.MULTILINE), (
        done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "complaint"),
    [
        (
            ["migrate", "postgresql://a\udcff@127.0.0.1/x"],
            {},
            "argument 'postgresql://a\\\\udcff@127.0.0.1/x' is not valid UTF-8",
        ),
        (["actors", "--type", "\udcff"], {}, "argument '\\\\udcff' is not valid UTF-8"),
        (["run", "x:y"], {"THEATRE_DSN": "\udcff"}, "environment variable THEATRE_DSN: '\\\\udcff' is not valid UTF-8"),
    ],
)
def test_bytes_that_are_no_text_are_named(
    arguments: list[str], environ: dict[str, str], complaint: str, theatre: Callable[..., Command]
) -> None:
    run = theatre(*arguments, **environ)
    assert run.end() == 2
    [line] = run.errors
    assert re.fullmatch(f"theatre: {complaint}", line)


def test_what_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    for redirection, code, complaint in (
        (">/dev/full", 1, "the output can't be written: No space left"),
        (">&-", 0, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m theatre_gevent --version {redirection}"], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (code, code), done.stderr
        assert complaint in done.stderr


def test_actors_are_shown_on_a_terminal_that_lacks_their_letters(theatre: Callable[..., Command]) -> None:
    with Host(admin_addr="127.0.0.1:0") as host:
        host.register_actor("x", lambda ctx: None)
        host.spawn_local(Ref("x", "zo\u00eb\u2192"))
        run = theatre("actors", str(host.admin_address), PYTHONIOENCODING="ascii")
        until(lambda: run.process.poll() is not None, 40)
        assert run.end() == 0
    assert any("zo\\xeb\\u2192" in line for line in run.out)
