"""Connection strings: which servers one names, and what is taken from the service file and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from theatre_gevent import InvalidOption
from theatre_gevent.cluster import dsn
from theatre_gevent.cluster.green import timeout_of

ADDRESSES = {"db1": ["10.0.0.1"], "db2": ["10.0.0.2", "::2"]}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGCONNECT_TIMEOUT", "PGSYSCONFDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))


def look_up(name: str) -> list[str]:
    if name not in ADDRESSES:
        raise OSError(f"{name} is unknown")
    return ADDRESSES[name]


def servers(text: str) -> list[tuple[str | None, str | None, str | None]]:
    found, _ = dsn.servers(dsn.parse(text), look_up)
    return [(one.get("host"), one.get("hostaddr"), one.get("port")) for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dbname=x", [(None, None, None)]),
        ("host=db1 port=6000", [("db1", "10.0.0.1", "6000")]),
        ("postgresql://user@db1:6000/x", [("db1", "10.0.0.1", "6000")]),
        ("host=db2", [("db2", "10.0.0.2", None), ("db2", "::2", None)]),
        ("host=db1,db2 port=1", [("db1", "10.0.0.1", "1"), ("db2", "10.0.0.2", "1"), ("db2", "::2", "1")]),
        ("postgresql://db1:1,db1:2/x", [("db1", "10.0.0.1", "1"), ("db1", "10.0.0.1", "2")]),
        ("host=/run,db1 port=1,2", [("/run", None, "1"), ("db1", "10.0.0.1", "2")]),
        ("host=@abstract", [("@abstract", None, None)]),
        ("host=db1 hostaddr=10.9.9.9", [("db1", "10.9.9.9", None)]),
        ("hostaddr=1.1.1.1,2.2.2.2", [(None, "1.1.1.1", None), (None, "2.2.2.2", None)]),
        ("host=db1,db2 hostaddr=,10.9.9.9", [("db1", "10.0.0.1", None), ("db2", "10.9.9.9", None)]),
        ("host=nobody,db1", [("db1", "10.0.0.1", None)]),
        ("host=nobody", []),
    ],
)
def test_servers(text: str, expected: list[tuple[str | None, str | None, str | None]]) -> None:
    assert servers(text) == expected


@pytest.mark.parametrize(
    "text", ["host=db1,db2 hostaddr=1.1.1.1", "host=db1,db2 port=1,2,3", "hostaddr=1,2 host=a,b,c"]
)
def test_what_does_not_fit_together_is_left_to_libpq(text: str) -> None:
    assert dsn.servers(dsn.parse(text), look_up) == ([dsn.parse(text)], None)


def test_other_parameters_stay() -> None:
    (one,), failure = dsn.servers(dsn.parse("host=db1 user=me password='a b' sslmode=verify-full"), look_up)
    assert one == {
        "host": "db1",
        "hostaddr": "10.0.0.1",
        "user": "me",
        "password": "a b",
        "sslmode": "verify-full",
    }
    assert failure is None


def test_the_last_failure_to_look_a_name_up_is_told() -> None:
    found, failure = dsn.servers(dsn.parse("host=nobody,db1,no1"), look_up)
    assert len(found) == 1
    assert str(failure) == "no1 is unknown"


def test_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db2")
    monkeypatch.setenv("PGPORT", "7")
    assert servers("dbname=x") == [("db2", "10.0.0.2", "7"), ("db2", "::2", "7")]
    assert servers("host=db1") == [("db1", "10.0.0.1", "7")]
    monkeypatch.setenv("PGHOSTADDR", "9.9.9.9")
    assert servers("") == [("db2", "9.9.9.9", "7")]


SERVICES = """
# ours
[other]
host=nobody
[main]
host = db1
 port=6543
#host=db2
[last]
host=db2
connect_timeout=9
"""


def test_the_service_file_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "services").write_text(SERVICES)
    monkeypatch.setenv("PGHOST", "db2")
    assert servers("service=main") == [("db1", "10.0.0.1", "6543")]
    assert servers("service=main port=1") == [("db1", "10.0.0.1", "1")]
    assert servers("service=nowhere") == [("db2", "10.0.0.2", None), ("db2", "::2", None)]
    monkeypatch.setenv("PGSERVICE", "main")
    assert servers("dbname=x") == [("db1", "10.0.0.1", "6543")]


def test_the_systems_service_file_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf").write_text(SERVICES)
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert servers("service=main") == [("db1", "10.0.0.1", "6543")]
    (tmp_path / "services").write_text("[main]\nhost=nobody\n")
    assert servers("service=main") == [], "the user's own file goes before it"


def test_how_long_a_connection_may_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "services").write_text(SERVICES)
    assert timeout_of("host=db1") == 2.0
    assert timeout_of("host=db1 connect_timeout=7") == 7.0
    assert timeout_of("service=last") == 9.0
    assert timeout_of("connect_timeout=0") == 2.0
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    assert timeout_of("host=db1") == 3.0


@pytest.mark.parametrize("text", ["host", "postgresql://a:b@[c", "hots=db1", "host='x"])
def test_what_is_no_connection_string_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="dsn is not a connection string"):
        dsn.parse(text)


def test_a_password_is_never_in_the_message() -> None:
    with pytest.raises(InvalidOption) as caught:
        dsn.parse("postgresql://user:s3cret%zz@host/x")
    assert "s3cret" not in str(caught.value)


def test_something_else_than_a_string_is_refused() -> None:
    with pytest.raises(InvalidOption, match="got 5"):
        dsn.parse(5)  # type: ignore[arg-type]
