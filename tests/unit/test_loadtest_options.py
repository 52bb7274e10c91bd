"""The load test's command line: what it takes, and what it says about mistakes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent.loadtest.cli import main
from theatre_gevent.loadtest.options import GIB, PROFILES, LoadOptions, UsageError, parse, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("1h", 3600),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1m0.5s", 60.5),
        ("7", 7),
        ("0.25", 0.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "s", "5y", "5 s", "1e3", "nan", "inf", "1s2", "9999999h"])
def test_bad_durations_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_duration(text)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8", 8 * GIB),
        ("0", 0),
        ("512M", 1 << 29),
        ("512MiB", 1 << 29),
        ("512mb", 1 << 29),
        ("1.5G", 3 << 29),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "M", "5X", "1 G", "1e9", "9999T"])
def test_bad_sizes_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_size(text)


def test_profiles_are_the_published_ones() -> None:
    published = {
        "small": (1_000, 10, 64, 4_096, 2, 2),
        "medium": (10_000, 20, 64, 8_192, 5, 2),
        "large": (100_000, 50, 32, 16_384, 10, 4),
        "massive": (1_000_000, 100, 8, 32_768, 30, 8),
    }
    for name, values in published.items():
        o = parse(["-profile", name])
        assert (o.actors, o.workers, o.actor_inbox, o.host_inbox, o.idle_timeout, o.memlimit / GIB) == values
    assert set(PROFILES) == set(published)


def test_defaults() -> None:
    o = parse([])
    assert (o.profile, o.hosts, o.mode, o.duration, o.sendpct, o.warm) == ("small", 3, "mixed", 30.0, 70, False)


def test_flags_override_the_profile_one_by_one() -> None:
    changes = "-actors 5 -workers 6 -inbox 7 -hostinbox 8 -idle 9s -memlimit 1G -sendpct 0 -duration 2m"
    o = parse(["-profile", "massive", *changes.split()])
    assert (o.actors, o.workers, o.actor_inbox, o.host_inbox, o.idle_timeout) == (5, 6, 7, 8, 9.0)
    assert (o.memlimit, o.sendpct, o.duration, o.profile) == (GIB, 0, 120.0, "massive")


def test_one_dash_two_dashes_and_equals_signs_mean_the_same(tmp_path: Path) -> None:
    one = parse(["-profile", "large", "-seed", "3", "-warm", "-json", str(tmp_path / "o.json")])
    two = parse(["--profile=large", "--seed=3", "--warm", f"-json={tmp_path / 'o.json'}"])
    assert one == two
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("-prof small", "unknown flag '-prof'; did you mean -profile?"),
        ("--actor 5", "unknown flag '--actor'; did you mean -actors?"),
        ("-hostsx 2", "unknown flag '-hostsx'; did you mean -hosts?"),
        ("-zzzzzz", "unknown flag '-zzzzzz'; allowed: -profile"),
        ("small", "unexpected argument 'small'"),
        ("-profile tiny", "'tiny' (choose from"),
        ("-profile", "-profile expected one argument"),
        ("-actors 0", "-actors must be a whole number from 1 to"),
        ("-actors x", "got 'x'"),
        ("-workers 1.5", "-workers must be a whole number"),
        ("-sendpct 101", "-sendpct must be a whole number from 0 to 100"),
        ("-sendpct -1", "-sendpct must be a whole number from 0 to 100"),
        ("-duration 0s", "-duration must be more than 0"),
        ("-memlimit lots", "-memlimit must be a size"),
        ("-mode other", "'other' (choose from"),
        ("-hosts 0", "-hosts must be a whole number from 1"),
        ("-hosts 101", "-hosts must be a whole number from 1 to 100"),
        ("-dsn=", "-dsn must be a Postgres connection string or 'embedded', got an empty one"),
        ("-dsn embeded", "-dsn is not a connection string"),
        ("-dsn nonsense=1", "or 'embedded' for a private server"),
        ("-warm=yes", "-warm"),
        ("-json /", "-json must be a file"),
        ("-json no/such/folder.json", "-json must be a file in a folder that exists"),
        (f"-json {'o' * 300}", "can't be written: File name too long"),
        (f"-memprofile {'o' * 300}/m.txt", "can't be written: File name too long"),
        (f"-hosts 3 -cpuprofile {'p' * 245}.html", "can't be written: File name too long"),
        ("-hosts 1 -memprofile=", "-memprofile must be a file"),
        ("-hosts 3 -memprofile /", "-memprofile must be a file"),
        (f"-memlimit {'9' * 400}", "-memlimit must be at most 1024T"),
        ("-hosts 1 -json o.json -memprofile o.json", "-json and -memprofile must be two files, got 'o.json' for both"),
        ("-hosts 3 -json ./o.json -cpuprofile o.json", "-json and -cpuprofile must be two files"),
        ("-hosts 3 -cpuprofile p.json -memprofile p.json", "-cpuprofile and -memprofile must be two files"),
        ("-hosts 3 -cpuprofile p.json -json p.host-2.json", "-json and -cpuprofile must be two files"),
        ("-cpuprofile profile.pprof", "-cpuprofile must end in .html or .json"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(says)):
        parse(arguments.split())
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("loadtest.py: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_with_a_line_break_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a\nfolder").mkdir()
    for arguments in (["-fo\no"], ["-json", "a\nfolder"], ["-json", f"a\nfolder/{'o' * 300}"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_devices_may_be_shared() -> None:
    options = parse(["-hosts", "1", "-json", "/dev/null", "-memprofile", "/dev/null"])
    assert options.json == options.memprofile


def test_modes_are_taken_with_one_host() -> None:
    assert [parse(["-hosts", "1", "-mode", mode]).mode for mode in ("mixed", "forward", "local")] == [
        "mixed",
        "forward",
        "local",
    ]


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("psutil", []), ("pyinstrument", ["-cpuprofile", "p.html"])],
    ids=["psutil", "pyinstrument"],
)
def test_a_missing_package_is_named_with_the_way_to_get_it(
    package: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # what the import system itself takes for "not there"
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"loadtest.py: the package {package} is missing: pip install theatre_gevent[loadtest]\n"
    )


def test_a_connection_string_or_a_private_server() -> None:
    assert parse([]).dsn is None
    assert parse(["-dsn", "embedded"]).dsn == "embedded"
    for dsn in ("postgresql://me:hush@db/x", "host=db dbname=x password=hush"):
        options = parse(["-dsn", dsn])
        assert options.dsn == dsn
        assert LoadOptions.from_data(options.data()) == options
        assert "hush" not in repr(options)


def test_a_mistake_in_a_connection_string_does_not_show_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-dsn", "host=db passwort='hush'"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("loadtest.py: -dsn ")
    assert errors.count("\n") == 1
    assert "hush" not in errors


def test_a_private_server_needs_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THEATRE_PG_BIN", str(tmp_path))
    assert main(["-dsn", "embedded"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("loadtest.py: -dsn embedded: THEATRE_PG_BIN must name a folder")
    assert errors.count("\n") == 1
