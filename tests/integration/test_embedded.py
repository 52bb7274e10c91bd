"""A private PostgreSQL server: it starts anywhere, does what fault tests need, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import gevent
import psutil
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from tests.postgres import Databases, Server, execute
from tests.support import gone, in_background, until
from theatre_gevent.embedded import EmbeddedPostgres, EmbeddedPostgresError, supervisor
from theatre_gevent.embedded.binaries import SEARCHED, candidates

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0
AT_REST = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
"""Of processes that are paused. Who has ended waits for its parent, which is paused too."""

USER = """
import json, sys, time
{patch}
import psycopg2
from theatre_gevent.embedded import EmbeddedPostgres

with EmbeddedPostgres() as postgres:
    connection = psycopg2.connect(postgres.dsn)
    print(json.dumps([str(postgres.directory), postgres.supervisor]), flush=True)
    {then}
print("ended", flush=True)
"""
PATCH = "from theatre_gevent import monkey; monkey.patch_all()"


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def own() -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres()
    yield server
    server.stop()


def tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def told(server: EmbeddedPostgres, question: Callable[[psutil.Process], T]) -> list[T]:
    """What the supervisor and its server's processes answer. One that served a connection ends when it likes."""
    answers = []
    for process in tree(server.supervisor):
        with suppress(psutil.NoSuchProcess):
            answers.append(question(process))
    return answers


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def run_user(then: str = "time.sleep(50)", patch: str = PATCH) -> tuple[subprocess.Popen[str], Path, int]:
    """Start a program that uses a server; return it, the server's directory, and its supervisor."""
    program = subprocess.Popen(
        [sys.executable, "-c", USER.format(patch=patch, then=then)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert program.stdout is not None
    directory, supervisor = json.loads(program.stdout.readline())
    return program, Path(directory), supervisor


# -- what it is ------------------------------------------------------------------------------------------------


def test_it_answers_and_leaves_nothing_behind(own: EmbeddedPostgres) -> None:
    assert own.start() is own
    assert execute(own.dsn, "SELECT 1") == [(1,)]
    assert execute(own.dsn, "SHOW server_version")[0][0].startswith(own.version)
    processes, directory = tree(own.supervisor), own.directory
    assert len(processes) > 3
    own.stop()
    assert gone(processes)
    assert not directory.exists()
    own.stop()


def test_nobody_gets_in_without_the_password(shared: EmbeddedPostgres) -> None:
    for password in ("", "wrong", "postgres"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(host="127.0.0.1", port=shared.port, user="postgres", password=password, dbname="postgres")
    password = parse_dsn(shared.dsn)["password"]
    assert len(password) >= 20
    commands = [" ".join(words) for words in told(shared, psutil.Process.cmdline)]
    assert len(commands) > 3
    assert not [command for command in commands if password in command]
    assert not [path for path in shared.directory.glob("*") if path.is_file() and password in path.read_text()]


def test_it_listens_on_loopback_alone(shared: EmbeddedPostgres) -> None:
    sockets = [each for some in told(shared, lambda process: process.net_connections("all")) for each in some]
    listening = {each.laddr for each in sockets if each.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", shared.port)}


def test_others_cannot_read_its_directory(shared: EmbeddedPostgres) -> None:
    assert shared.directory.stat().st_mode & 0o066 == 0
    assert (shared.directory / "data").stat().st_mode & 0o077 == 0
    assert (shared.directory / "log").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not AS_ROOT, reason="tests that the server runs as nobody need root")
def test_run_by_root_the_server_is_not(shared: EmbeddedPostgres) -> None:
    users = set(told(shared, psutil.Process.username)[1:])
    assert users == {"nobody"}


def test_settings_add_to_and_replace_the_usual_ones() -> None:
    with EmbeddedPostgres(settings={"max_connections": 7, "cluster_name": "it's \\ mine"}) as server:
        assert execute(server.dsn, "SHOW max_connections") == [("7",)]
        assert execute(server.dsn, "SHOW cluster_name") == [("it's \\ mine",)]
        assert execute(server.dsn, "SHOW fsync") == [("off",)]


def test_a_bad_setting_is_named_and_nothing_is_left(own: EmbeddedPostgres) -> None:
    own = EmbeddedPostgres(settings={"max_connectionz": 7})
    with pytest.raises(EmbeddedPostgresError, match="max_connectionz"):
        own.start()
    assert not own.directory.exists()


def test_several_start_at_once() -> None:
    servers = [EmbeddedPostgres() for _ in range(3)]
    try:
        starts = [in_background(server.start) for server in servers]
        gevent.joinall(starts)
        for start in starts:
            start.get()
        assert len({server.port for server in servers}) == 3
        assert [execute(server.dsn, "SELECT 1") for server in servers] == [[(1,)]] * 3
    finally:
        for server in servers:
            server.stop()
    assert not any(server.directory.exists() for server in servers)


def test_misuse_is_explained(own: EmbeddedPostgres) -> None:
    for use in (own.restart, own.pause, lambda: own.dsn, lambda: own.port, lambda: own.supervisor):
        with pytest.raises(EmbeddedPostgresError, match="does not run"):
            use()
    own.start()
    with pytest.raises(EmbeddedPostgresError, match="started already"):
        own.start()
    own.stop()
    with pytest.raises(EmbeddedPostgresError, match="does not run"):
        own.resume()
    assert execute(own.start().dsn, "SELECT 1") == [(1,)], "it may be started again, as a new one"


def test_the_hub_goes_on_while_it_starts(own: EmbeddedPostgres) -> None:
    ticks: list[int] = []

    def tick() -> None:
        while True:
            ticks.append(0)
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    own.start()
    while_starting = len(ticks)
    own.stop()
    ticker.kill()
    assert while_starting > 50


# -- faults ----------------------------------------------------------------------------------------------------


def test_a_restart_keeps_data_and_port(own: EmbeddedPostgres) -> None:
    dsn = own.start().dsn
    execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    connection = psycopg2.connect(dsn)
    own.restart()
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")
    connection.close()
    assert own.dsn == dsn
    assert execute(dsn, "SELECT answer FROM kept") == [(42,)]


def test_what_was_committed_outlives_a_kill(own: EmbeddedPostgres) -> None:
    dsn = own.start().dsn
    for round_ in range(3):
        execute(dsn, f"CREATE TABLE kept_{round_} AS SELECT 42 AS answer")
        processes = tree(own.supervisor)[1:]
        own.kill()
        assert gone(processes)
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            psycopg2.connect(dsn)
        own.restart()
        assert execute(dsn, f"TABLE kept_{round_}") == [(42,)]


def test_an_interrupted_order_is_carried_out_and_the_next_one_waits_for_it(own: EmbeddedPostgres) -> None:
    dsn = own.start().dsn
    processes = tree(own.supervisor)[1:]
    supervisor = psutil.Process(own.supervisor)
    supervisor.suspend()  # until nobody waits for the first order any more
    with suppress(gevent.Timeout), gevent.Timeout(0.05):
        own.restart()
    killing = in_background(own.kill)
    gevent.idle()
    supervisor.resume()
    killing.get()
    assert gone(processes)
    assert tree(own.supervisor)[1:] == []
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(dsn)
    own.restart()
    assert execute(dsn, "SELECT 1") == [(1,)]
    supervisor.suspend()
    with pytest.raises(EmbeddedPostgresError, match=r"did not pause in 0\.05 s"):
        own._order("pause", 0.05)
    supervisor.resume()
    own.shutdown()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(dsn)


def test_after_a_shutdown_connections_are_refused(own: EmbeddedPostgres) -> None:
    dsn = own.start().dsn
    own.shutdown()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(dsn)
    own.shutdown()
    own.restart()
    assert execute(dsn, "SELECT 1") == [(1,)]


def test_a_paused_server_keeps_connections_and_answers_nobody(own: EmbeddedPostgres) -> None:
    connection = psycopg2.connect(own.start().dsn)
    answered: list[Any] = []

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            answered.append(cursor.fetchall())

    own.pause()
    states = set(told(own, psutil.Process.status)[1:])
    assert {psutil.STATUS_STOPPED} <= states <= AT_REST
    asking = in_background(ask)
    newcomer = in_background(execute, own.dsn, "SELECT 2")
    asking.join(0.3)
    assert not answered
    assert not newcomer.ready()
    own.resume()
    asking.get()
    assert answered == [[(1,)]]
    assert newcomer.get() == [(2,)]
    connection.close()


def test_nothing_runs_once_a_server_is_paused(own: EmbeddedPostgres) -> None:
    """A signal takes effect when the process next runs, which it waits for where others run."""
    dsn = own.start().dsn
    busy = [in_background(execute, dsn, "DO 'BEGIN LOOP END LOOP; END'") for _ in range(8)]
    until(lambda: len(execute(dsn, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO %'")) == 8)
    for _ in range(30):
        own.pause()
        states = set(told(own, psutil.Process.status)[1:])
        own.resume()
        assert {psutil.STATUS_STOPPED} <= states <= AT_REST
    own.kill()
    for query in busy:
        with pytest.raises(psycopg2.OperationalError):
            query.get()


@pytest.mark.skipif(
    shutil.which("ps") is None or not Path("/proc/self/stat").exists(), reason="there are not both, ps and /proc"
)
def test_processes_are_found_by_ps_as_well() -> None:
    """It does not find itself: there would always be one more child to be stopped."""

    def children(processes: Iterable[supervisor.Process]) -> dict[int, str]:
        return {each.pid: each.state for each in processes if each.parent == os.getpid()}

    with subprocess.Popen(["sleep", "50"]) as child:
        child.send_signal(signal.SIGSTOP)
        until(lambda: children(supervisor._proc())[child.pid] == "T")
        by_ps = children(supervisor._ps())
        assert by_ps[child.pid] == "T"
        assert by_ps.keys() == children(supervisor._proc()).keys()
        child.kill()


def test_a_ps_that_fails_is_not_taken_for_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ps").write_text("#!/bin/sh\necho 1 0 S\nexit 3\n")
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(supervisor.Failed, match="exit code 3"):
        list(supervisor._ps())


def test_a_paused_server_can_be_ended(own: EmbeddedPostgres) -> None:
    own.start()
    for then in (own.restart, own.kill, own.restart, own.stop):
        processes = tree(own.supervisor)[1:]
        own.pause()
        then()
        until(lambda processes=processes: gone(processes))  # type: ignore[misc]


# -- the end of the program that uses it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "patch"),
    [(signal.SIGKILL, PATCH), (signal.SIGKILL, ""), (signal.SIGTERM, PATCH)],
    ids=["kill-patched", "kill-plain", "term-patched"],
)
def test_it_goes_with_a_program_that_is_killed(number: int, patch: str) -> None:
    program, directory, supervisor = run_user(patch=patch)
    processes = tree(supervisor)
    with program:
        program.send_signal(number)
        program.wait()
    until(lambda: gone(processes))
    assert not directory.exists()


@pytest.mark.parametrize("patch", [PATCH, ""], ids=["patched", "plain"])
def test_ctrl_c_removes_it_before_the_program_ends(patch: str) -> None:
    program, directory, supervisor = run_user(patch=patch)
    processes = tree(supervisor)
    with program:
        program.send_signal(signal.SIGINT)
        program.wait()
        assert not directory.exists()
        assert gone(processes)


def test_a_program_that_ends_without_a_stop_leaves_nothing() -> None:
    program, directory, supervisor = run_user("import os; os._exit(0)")
    processes = tree(supervisor) if psutil.pid_exists(supervisor) else []
    with program:
        program.wait()
    until(lambda: gone(processes) and not directory.exists())


def test_a_forked_copy_of_a_killed_program_does_not_keep_it() -> None:
    """The copy holds the socket's end open, so that the supervisor never sees it closed."""
    program, directory, supervisor = run_user("""
    import os
    if os.fork() == 0:
        time.sleep(50)
    print(os.getpid(), flush=True)
    time.sleep(50)""")
    assert program.stdout is not None
    assert int(program.stdout.readline()) == program.pid
    processes, copies = tree(supervisor), psutil.Process(program.pid).children()
    copies = [copy for copy in copies if copy.pid != supervisor]
    assert len(copies) == 1
    with program:
        program.kill()
        program.wait()
        until(lambda: gone(processes))
        copies[0].kill()
    assert not directory.exists()


def test_a_forked_copy_can_do_no_harm() -> None:
    program, _, _ = run_user(
        """
    import os
    if os.fork() == 0:
        try:
            postgres.restart()
        except Exception as error:
            print(error, flush=True)
        postgres.stop()
        os._exit(0)
    os.wait()
    connection.cursor().execute("SELECT 1")""",
        patch="",
    )
    with program:
        output = program.communicate()[0]
    assert output == "this PostgreSQL belongs to the process that this one was forked from\nended\n"


@pytest.mark.skipif(sys.platform != "linux", reason="nothing but Linux lets a child die with its parent")
def test_the_server_ends_when_its_supervisor_is_killed(own: EmbeddedPostgres) -> None:
    own.start()
    processes, directory = tree(own.supervisor), own.directory
    os.kill(own.supervisor, signal.SIGKILL)
    until(lambda: gone(processes))
    with pytest.raises(EmbeddedPostgresError, match="watches over PostgreSQL"):
        own.restart()
    own.stop()
    assert not directory.exists()


def test_a_start_that_takes_too_long_is_given_up(own: EmbeddedPostgres, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 50\n")
        (tmp_path / name).chmod(0o755)
    for path in (tmp_path, *tmp_path.parents[:-1]):
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    monkeypatch.setenv("THEATRE_PG_BIN", str(tmp_path))
    own = EmbeddedPostgres(start_timeout=0.5)
    with pytest.raises(EmbeddedPostgresError, match=r"did not start in 0.5 s"):
        own.start()
    assert not own.directory.exists()


# -- programs --------------------------------------------------------------------------------------------------


def programs(folder: Path, script: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_search_has_an_order(tmp_path: Path, monkeypatch: Any) -> None:
    folder = programs(tmp_path / "own", "exit 1")
    found = [candidate["found"] for candidate in candidates()]
    assert found[-1] == "the extra [embedded]"
    monkeypatch.setenv("PATH", f"{tmp_path}:{folder}:{os.environ['PATH']}")
    assert candidates()[0]["bin"] == str(folder)
    assert [candidate["found"] for candidate in candidates()][-1] == "the extra [embedded]"
    other = programs(tmp_path / "other", "exit 1")
    monkeypatch.setenv("THEATRE_PG_BIN", str(other))
    assert [candidate["bin"] for candidate in candidates()] == [str(other)]


def test_the_wheels_newest_version_comes_first() -> None:
    wheel = [candidate["bin"] for candidate in candidates() if candidate["found"] == "the extra [embedded]"]
    assert len(wheel) >= 2
    assert "pginstall18" in wheel[0]


def test_a_bad_folder_is_named(own: EmbeddedPostgres, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("THEATRE_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match=f"THEATRE_PG_BIN must name a folder .*{tmp_path}"):
        own.start()


def test_without_programs_it_says_what_to_install(monkeypatch: Any, own: EmbeddedPostgres, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("theatre_gevent.embedded.binaries.SYSTEM_FOLDERS", ())
    monkeypatch.setattr("theatre_gevent.embedded.binaries.WHEEL", "no_such_wheel")
    with pytest.raises(EmbeddedPostgresError) as caught:
        own.start()
    assert SEARCHED in str(caught.value)
    assert "pip install theatre_gevent[embedded]" in str(caught.value)


def test_programs_that_do_not_work_are_passed_over(monkeypatch: Any, own: EmbeddedPostgres, tmp_path: Path) -> None:
    broken = programs(tmp_path / "broken", "echo postgres 15.1; test $1 = --version")
    old = programs(tmp_path / "old", "echo 'postgres (PostgreSQL) 9.6.2'")
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o011)
    monkeypatch.setenv("PATH", f"{broken}:{old}:{os.environ['PATH']}")
    assert execute(own.start().dsn, "SELECT 1") == [(1,)]
    assert own.binaries not in (broken, old)
    monkeypatch.setenv("THEATRE_PG_BIN", str(old))
    with pytest.raises(EmbeddedPostgresError, match=r"13 or newer is needed.*9\.6\.2"):
        EmbeddedPostgres().start()
    monkeypatch.setenv("THEATRE_PG_BIN", str(broken))
    with pytest.raises(EmbeddedPostgresError, match=r"initdb ended with 1: postgres 15\.1"):
        EmbeddedPostgres().start()


def of_wheel() -> Path:
    return next(Path(each["bin"]) for each in candidates() if each["found"] == "the extra [embedded]")


def test_the_wheel_works(own: EmbeddedPostgres, monkeypatch: Any) -> None:
    monkeypatch.setenv("THEATRE_PG_BIN", str(of_wheel()))
    assert execute(own.start().dsn, "SELECT 1") == [(1,)]
    own.restart()
    assert execute(own.dsn, "SELECT 1") == [(1,)]


@pytest.mark.skipif(not AS_ROOT, reason="programs are copied for the user nobody alone")
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_programs_that_nobody_cannot_read_are_copied(
    tmp_path: Path, own: EmbeddedPostgres, monkeypatch: Any, named: bool
) -> None:
    """As in a virtualenv below /root: here a copy of the wheel in a folder that is root's alone."""
    private = tmp_path / "private"
    package = of_wheel().parents[1]
    shutil.copytree(of_wheel().parent, private / package.name / of_wheel().parent.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), private / f"{package.name}.libs")
    (private / package.name / "__init__.py").touch()
    private.chmod(0o700)
    monkeypatch.syspath_prepend(str(private))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("theatre_gevent.embedded.binaries.SYSTEM_FOLDERS", ())
    if named:
        monkeypatch.setenv("THEATRE_PG_BIN", str(of_wheel()))  # the copy
    own.start()
    assert own.binaries.is_relative_to(own.directory)
    assert execute(own.dsn, "SELECT 1") == [(1,)]
    directory = own.directory
    own.stop()
    assert not directory.exists()


def python_for_nobody() -> tuple[str, str]:
    """Return a Python that the user nobody can run, and where it finds what this one has installed."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        path = os.pathsep.join((str(ROOT), *(each for each in sys.path if each.endswith("site-packages"))))
        try:
            program = subprocess.run(
                [python, "-c", "import gevent, theatre_gevent"],
                env=environment(PYTHONPATH=path),
                user=65534,
                group=65534,
                extra_groups=[],
                check=False,
            )
        except OSError:
            continue
        if program.returncode == 0:
            return python, path
    pytest.skip("no Python of this version here can be run by the user nobody")


@pytest.mark.skipif(not AS_ROOT, reason="only root can take on another user; for others every other test does this")
def test_another_user_than_root_can_use_it() -> None:
    """The program runs as nobody from the start: no user is changed, nothing is copied."""
    python, path = python_for_nobody()
    then = "import os; print(os.geteuid(), postgres.directory.stat().st_uid, flush=True)"
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.chown(folder, 65534, 65534)
    try:
        program = subprocess.run(
            [python, "-c", USER.format(patch=PATCH, then=then)],
            capture_output=True,
            text=True,
            env=environment(TMPDIR=str(folder), PYTHONPATH=path),
            user=65534,
            group=65534,
            extra_groups=[],
            check=False,
        )
        assert program.stderr == ""
        assert program.stdout.splitlines()[1:] == ["65534 65534", "ended"]
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(not AS_ROOT, reason="only then is the folder a matter")
def test_run_by_root_it_looks_for_a_folder_that_nobody_can_get_to(
    tmp_path: Path, own: EmbeddedPostgres, monkeypatch: Any
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(private))
    assert execute(own.start().dsn, "SELECT 1") == [(1,)]
    assert not own.directory.is_relative_to(private)


# -- the fixtures of the test suite ------------------------------------------------------------------------------


def test_each_test_gets_an_empty_database(dsn: str, postgres: Server, databases: Databases) -> None:
    assert execute(dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    execute(dsn, "CREATE TABLE mine (x int)")
    other = databases.create()
    assert execute(other, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    count = "SELECT count(*) FROM pg_database WHERE datname LIKE 'theatre_test_%%' AND datname = ANY(%s)"
    names = [parse_dsn(each)["dbname"] for each in (dsn, other)]
    assert execute(postgres.dsn, count, names) == [(2,)]
    with_connection = psycopg2.connect(dsn)
    databases.drop_all()
    with_connection.close()
    assert execute(postgres.dsn, count, names) == [(0,)]


def test_a_given_server_is_used(shared: EmbeddedPostgres, monkeypatch: Any) -> None:
    monkeypatch.setenv("THEATRE_TEST_DSN", shared.dsn)
    with Server() as server:
        assert server.embedded is None
        databases = Databases(server.dsn)
        dsn = databases.create()
        assert parse_dsn(dsn)["port"] == str(shared.port)
        assert execute(dsn, "SELECT 1") == [(1,)]
        databases.drop_all()
    assert execute(shared.dsn, "SELECT 1") == [(1,)], "a given server goes on"


def test_it_may_be_used_from_native_threads(shared: EmbeddedPostgres) -> None:
    """As the cluster's own thread does: psycopg2 there, the server object in the main thread."""
    from gevent.monkey import get_original

    results: list[Any] = []
    start = get_original("_thread", "start_new_thread")
    start(lambda: results.append(execute(shared.dsn, "SELECT 1")), ())
    until(lambda: results)
    assert results == [[(1,)]]
    assert threading.active_count() >= 1
