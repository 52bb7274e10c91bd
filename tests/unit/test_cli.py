"""The command's arguments, environment variables and small decisions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from theatre_gevent import InvalidOption
from theatre_gevent.cli.arguments import parse
from theatre_gevent.cli.errors import CommandError, UsageMistake
from theatre_gevent.cli.main import main
from theatre_gevent.cli.run import STEADY, Backoff, counted_up, delay, plan, same_port
from theatre_gevent.cli.target import load

COMMANDS = ("run", "status", "actors", "migrate", "playground")


def test_options_come_from_arguments_then_the_environment_then_defaults() -> None:
    environ = {"THEATRE_TARGET": "shop:setup", "THEATRE_HOSTS": "3", "THEATRE_LOG_FORMAT": "json"}
    given = parse(["run", "--hosts", "2"], environ)
    assert (given.target, given.hosts, given.log_format, given.log_level) == ("shop:setup", 2, "json", "INFO")
    assert parse(["run", "other:setup"], environ).target == "other:setup"
    assert parse(["run", "x:y"], {"THEATRE_NO_MIGRATE": "yes"}).no_migrate is True
    assert parse(["run", "x:y"], {"THEATRE_NO_MIGRATE": "0"}).no_migrate is False
    assert parse(["run", "x:y", "--no-migrate"], {"THEATRE_NO_MIGRATE": "0"}).no_migrate is True
    assert parse(["status"], {}).url == "http://127.0.0.1:9090"
    assert parse(["status"], {"THEATRE_URL": "http://other:1"}).url == "http://other:1"


def test_the_name_of_hosts_is_not_one_of_the_playgrounds() -> None:
    environ = {"THEATRE_NAME": "shop"}
    assert parse(["run", "x:y"], environ).name == "shop"
    assert parse(["playground"], environ).name is None
    assert parse(["playground"], {"THEATRE_PLAYGROUND": "b"}).name == "b"
    assert parse(["playground", "c"], {"THEATRE_PLAYGROUND": "b"}).name == "c"


@pytest.mark.parametrize(
    ("arguments", "environ", "complaint"),
    [
        ([], {}, "a command is missing: run, "),
        (["dance"], {}, "invalid choice: 'dance'"),
        (["run"], {}, "MODULE:FUNCTION is missing: give it, or set THEATRE_TARGET"),
        (["migrate"], {}, "DSN is missing: give it, or set THEATRE_DSN"),
        (["run", "x:y", "--hosts", "0"], {}, "argument --hosts: must be a whole number from 1 to 256, got '0'"),
        (["run", "x:y"], {"THEATRE_HOSTS": "many"}, "environment variable THEATRE_HOSTS: must be a whole number"),
        (["run", "x:y"], {"THEATRE_LOG_FORMAT": "xml"}, "THEATRE_LOG_FORMAT: must be one of text, json, got 'xml'"),
        (["run", "x:y"], {"THEATRE_NO_MIGRATE": "perhaps"}, "THEATRE_NO_MIGRATE: must be one of 1, true"),
        (["run", "x:y", "--admin", "nowhere"], {}, "argument --admin: it must be 'host:port'"),
        (["run", "x:y", "--drain-timeout", "nan"], {}, "must be a number of seconds, more than 0, got 'nan'"),
        (["playground"], {"THEATRE_PLAYGROUND": "d"}, "THEATRE_PLAYGROUND: must be one of a, b, c, got 'd'"),
        (["actors", "--limit", "1001"], {}, "must be a whole number from 1 to 1000"),
        (["status", "--jso"], {}, "unrecognized arguments: --jso"),
    ],
)
def test_a_mistake_names_what_is_wrong(arguments: list[str], environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        parse(arguments, environ)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([command, "--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n" in text
    assert "exit codes:\n" in text
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert text.count("[THEATRE_") >= len(options) > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "no-colon"], "the target must be MODULE:FUNCTION"),
        (["run", "x:y", "--hosts", "3", "--admin", "127.0.0.1:65534"], "there are not enough ports"),
        (["run", "x:y", "--hosts", "2", "--host-id", "a"], "--host-id is for one host, and --hosts says 2"),
        (
            ["run", "x:y", "--advertise", "a:1", "--listen", "127.0.0.1:1"],
            "--advertise is for hosts on several machines",
        ),
        (["run", "x:y", "--advertise", "a:1", "--dsn", "host=db"], "--advertise is for hosts on several machines"),
        (["run", "x:y", "--admin", "0.0.0.0:9090"], "can be reached from other machines: give an admin_token"),
        (
            ["run", "x:y", "--hosts", "2", "--listen", "127.0.0.1:17001", "--admin", "127.0.0.1:17002"],
            "--listen 127.0.0.1:17001 and --admin 127.0.0.1:17002 meet: 127.0.0.1:17002 is for host host-2 "
            "and 127.0.0.1:17002 for the admin server of host host-1",
        ),
        (
            ["run", "x:y", "--hosts", "3", "--listen", "127.0.0.1:17002", "--admin", "127.0.0.1:17001"],
            "--listen 127.0.0.1:17002 and --admin 127.0.0.1:17001 meet",
        ),
        (["run", "x:y", "--listen", "0.0.0.0:17001", "--admin", "127.0.0.1:17001"], "and --admin 127.0.0.1:17001 meet"),
        (["migrate", "embedded"], "'embedded' is for `run` and `playground`"),
        (["migrate", "nonsense"], "dsn is not a connection string"),
        (["status", "ftp://x"], "the URL must be an admin server such as http://127.0.0.1:9090"),
        (["status", "http://x:99999"], "the URL must be an admin server"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("theatre: ")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1
    assert complaint in errors


def test_ports_count_up_and_hosts_without_a_database_know_each_other() -> None:
    assert counted_up("[::1]:80", 2) == "[::1]:82"
    assert counted_up("127.0.0.1:0", 2) == "127.0.0.1:0"
    hosts = plan(parse(["run", "x:y", "--hosts", "3", "--listen", "127.0.0.1:7001", "--admin", "127.0.0.1:9090"], {}))
    assert list(hosts) == ["host-1", "host-2", "host-3"]
    assert [options["listen"] for options in hosts.values()] == [f"127.0.0.1:{port}" for port in (7001, 7002, 7003)]
    assert [options["admin_addr"] for options in hosts.values()] == [f"127.0.0.1:{port}" for port in (9090, 9091, 9092)]
    assert hosts["host-2"]["peers"] == {"host-1": "127.0.0.1:7001", "host-3": "127.0.0.1:7003"}
    alone = plan(parse(["run", "x:y"], {}))["host-1"]
    assert "listen" not in alone
    free = plan(parse(["run", "x:y", "--hosts", "3"], {}))
    assert len({options["listen"] for options in free.values()}) == 3
    with pytest.raises(UsageMistake, match="ports that nobody knows"):
        plan(parse(["run", "x:y", "--hosts", "2", "--listen", "127.0.0.1:0"], {}))


def test_other_options_of_host_are_set_by_name() -> None:
    argv = ["run", "x:y", "--hosts", "2", "--set", "idle_timeout=60", "--set", "on_lease_lost=drain"]
    for options in plan(parse(argv, {"THEATRE_SET": "idle_timeout=1"})).values():
        assert (options["idle_timeout"], options["on_lease_lost"]) == (60.0, "drain")
    environ = {"THEATRE_SET": " actor_inbox_size=9  panic_recovery=off", "THEATRE_DRAIN_TIMEOUT": "0"}
    [options] = plan(parse(["run", "x:y"], environ)).values()
    assert (options["actor_inbox_size"], options["panic_recovery"], options["drain_timeout"]) == (9, False, 0.0)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("idle_timeout", "must be NAME=VALUE, with a NAME of idle_timeout, .*, got 'idle_timeout'"),
        ("idel_timeout=1", "must be NAME=VALUE, .*, got 'idel_timeout=1'"),
        ("lease_duration=5", "must be NAME=VALUE"),
        ("dead_letter_handler=print", "must be NAME=VALUE"),
        ("idle_timeout=soon", "idle_timeout must be a number, got 'soon'"),
        ("actor_inbox_size=1.5", "actor_inbox_size must be a number"),
        ("panic_recovery=maybe", "panic_recovery must be one of 1, true,"),
        ("idle_timeout=-1", "idle_timeout must be a finite number of seconds, more than 0, got -1.0"),
    ],
)
def test_a_bad_setting_is_named(setting: str, complaint: str) -> None:
    for argv, environ in ((["--set", setting], {}), ([], {"THEATRE_SET": setting})):
        with pytest.raises((UsageMistake, InvalidOption), match=complaint):
            plan(parse(["run", "x:y", *argv], environ))


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:080", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:80", "10.0.0.5:80", False),
        ("127.0.0.1:80", "localhost:80", True),
        ("0.0.0.0:80", "10.0.0.5:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("0.0.0.0:80", "[::]:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("[::1]:80", "127.0.0.1:80", False),
    ],
)
def test_ports_meet_where_addresses_do(one: str, another: str, same: bool) -> None:
    assert same_port(one, another) is same_port(another, one) is same


def test_ranges_of_ports_that_only_touch_are_fine() -> None:
    plan(parse(["run", "x:y", "--hosts", "2", "--listen", "127.0.0.1:7001", "--admin", "127.0.0.1:7003"], {}))
    plan(parse(["run", "x:y", "--hosts", "2", "--listen", "127.0.0.1:7003", "--admin", "127.0.0.1:7001"], {}))


def test_the_database_of_run_is_not_one_to_migrate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THEATRE_DSN", "embedded")
    assert main(["migrate"]) == 2
    assert capsys.readouterr().err.startswith("theatre: 'embedded' is for `run` and `playground`")


def test_a_host_in_a_container_has_its_own_id_and_tells_others_another_address() -> None:
    environ = {
        "THEATRE_TARGET": "x:y",
        "THEATRE_HOST_ID": "shop-0",
        "THEATRE_DSN": "host=db",
        "THEATRE_LISTEN": "0.0.0.0:7001",
        "THEATRE_ADVERTISE": "shop-0.shop:7001",
    }
    [(name, options)] = plan(parse(["run"], environ)).items()
    assert (name, options["listen"], options["advertise"]) == ("shop-0", "0.0.0.0:7001", "shop-0.shop:7001")
    two = plan(parse(["run", "--hosts", "2"], {**environ, "THEATRE_HOST_ID": ""}))
    assert [options["advertise"] for options in two.values()] == ["shop-0.shop:7001", "shop-0.shop:7002"]


@pytest.mark.parametrize(
    ("text", "code", "complaint"),
    [
        ("import sys\nsys.exit(0)\n", 1, r"sys\.exit\(0\) was called at .*/helper_of_target\.py:2"),
        (
            "import argparse\nargparse.ArgumentParser().error('x')",
            1,
            r"sys\.exit\(2\) was called at .*/helper_of_\S+:2",
        ),
        ("import json\njson.loads('')\n", 2, r"JSONDecodeError: .* at .*/helper_of_target\.py:2"),
        ("def f():\n    return nothing\nf()\n", 2, r"NameError: .* at .*/helper_of_target\.py:2"),
        ("x = 1\nx = = 2\n", 2, r"SyntaxError: .* at .*/helper_of_target\.py:2"),
        ("import gone_away\n", 2, r"ModuleNotFoundError: .* at .*/helper_of_target\.py:1"),
    ],
)
def test_what_can_not_be_imported_is_said_with_its_place(
    text: str, code: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helper_of_target.py").write_text(text)
    (tmp_path / "target_with_mistake.py").write_text("import helper_of_target\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError) as caught:
        load("target_with_mistake:setup")
    assert caught.value.code == code
    assert re.fullmatch(f"module 'target_with_mistake' can't be imported: {complaint}", str(caught.value))


def test_delays_double_up_to_a_bound() -> None:
    assert [delay(ends) for ends in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert delay(7) == delay(1_000_000) == 30.0


def test_each_end_lengthens_the_delay_and_a_steady_run_starts_it_anew() -> None:
    backoff = Backoff()
    assert [backoff.after(lasted) for lasted in (0.1, 3.0, STEADY)] == [0.5, 1.0, 2.0]
    assert [backoff.after(lasted) for lasted in (STEADY + 1, 0.1)] == [0.5, 1.0]
    assert [backoff.after(0.1) for _ in range(1_000)][-1] == 30.0


def test_the_version_says_what_runs_and_asking_needs_no_patch() -> None:
    code = (
        "import sys\nfrom theatre_gevent.__main__ import main\nsys.argv[1:] = ['--version']\ncode = main()\n"
        "from theatre_gevent import monkey\nassert not monkey.is_patched()\nsys.exit(code)"
    )
    for command in (["-m", "theatre_gevent", "--version"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, "-W", "error", *command], capture_output=True, text=True, timeout=40, check=False,
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("theatre_gevent ")
        assert "(compiled)" in done.stdout or "(pure: " in done.stdout
