"""The last warnings and dead letters, and how late the hub is."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from theatre_gevent import Ref
from theatre_gevent.hub_watch import INTERVAL, HubWatch
from theatre_gevent.journal import KEPT, Journal, iso
from theatre_gevent.testing import VirtualClock

log = logging.getLogger("theatre_gevent.test_journal")


@pytest.fixture
def journal(clock: VirtualClock) -> Iterator[Journal]:
    journal = Journal(clock)
    journal.open()
    yield journal
    journal.shut()


def test_warnings_are_kept_and_lesser_lines_are_not(journal: Journal) -> None:
    log.info("too little")
    log.warning("mind %s", "the gap", extra={"theatre_ref": "x/1"})
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("failed")
    logging.getLogger("other").error("of somebody else's")
    failed, minded = journal.entries(10)
    assert (minded["level"], minded["message"], minded["actor"], minded["detail"]) == (
        "warn", "mind the gap", "x/1", None,
    )  # fmt: skip
    assert (failed["level"], failed["message"], failed["detail"]) == ("error", "failed", "ValueError: odd")
    assert {entry["source"] for entry in (failed, minded)} == {"theatre_gevent.test_journal"}
    assert {entry["process"] for entry in (failed, minded)} == {os.getpid()}


def test_dead_letters_do_not_push_warnings_out(journal: Journal, clock: VirtualClock) -> None:
    log.warning("first")
    for number in range(3 * KEPT):
        journal.dead_letter(Ref("x", str(number)), {"secret": 1}, Ref("y", "1"), "the host froze")
    entries = journal.entries(10_000)
    assert len(entries) == KEPT + 1
    assert entries[0]["actor"] == f"x/{3 * KEPT - 1}"
    assert entries[0]["message"] == "dead letter: dict from y/1"
    assert entries[0]["detail"] == "the host froze"
    assert entries[0]["time"] == iso(clock.time())
    assert entries[-1]["message"] == "first"
    assert "secret" not in str(entries)
    assert len(journal.entries(5)) == 5


def test_long_texts_are_cut(journal: Journal) -> None:
    log.warning("x" * 1_000_000)
    assert len(journal.entries(1)[0]["message"]) == 2000


def test_a_journal_that_is_shut_hears_nothing(journal: Journal) -> None:
    journal.shut()
    log.warning("unheard")
    assert journal.entries(10) == []


def test_a_record_that_can_not_be_told_harms_nobody(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    journal.handle(logging.LogRecord("theatre_gevent", logging.ERROR, "", 0, "%d", ("x",), None))
    assert journal.entries(10) == []


def test_times_are_rfc_3339() -> None:
    assert iso(0.0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_795_576_390.6704) == "2026-11-25T03:13:10.670Z"


def test_a_hub_in_time_is_not_late(clock: VirtualClock) -> None:
    watch = HubWatch(clock)
    assert watch.lag() == 0.0
    watch.start()
    for _ in range(5):
        clock.advance(INTERVAL / 2)
        assert watch.lag() == 0.0
    watch.stop()
    assert clock.pending_timers() == 0


class Blocked:
    """A clock whose timers come when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.callbacks: list[object] = []

    def monotonic(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: object) -> Blocked:
        self.callbacks.append(callback)
        return self

    def cancel(self) -> None:
        self.callbacks.clear()


def test_a_blocked_hub_is_late_while_it_is_blocked_and_until_the_next_look() -> None:
    clock = Blocked()
    watch = HubWatch(clock)  # type: ignore[arg-type]
    watch.start()
    clock.now += INTERVAL + 7
    assert watch.lag() == pytest.approx(7)
    clock.callbacks.pop()()  # type: ignore[operator]
    assert watch.lag() == pytest.approx(7)
    clock.now += INTERVAL
    clock.callbacks.pop()()  # type: ignore[operator]
    assert watch.lag() == 0.0
