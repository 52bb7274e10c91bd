"""The judge of the chaos tests finds what it is there for: each kind of violation, planted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.excuses import Deaths, Fault, Lives
from tests.chaos.judge import Judge
from tests.chaos.witness import OFFERS, Record, Witness, read

A: dict[str, Any] = {"host": "a", "pid": 1, "epoch": 10}
B: dict[str, Any] = {"host": "b", "pid": 2, "epoch": 11}
Line = tuple[str, float, dict[str, Any]]


def story(*lines: Line) -> list[Record]:
    """Return records about the actor r; numbered messages of the sender s are sent first."""
    records = [Record(what, t, **{"ref": "r", **fields}) for what, t, fields in lines]
    numbers = {r.n for r in records if r.what == "begin" and r.n} - {r.n for r in records if r.what in OFFERS}
    return [Record("sent", 0.0, 9, "c", ref="r", sender="s", n=n) for n in sorted(numbers)] + records


def msg(where: dict[str, Any], act: str, n: int, **fields: Any) -> dict[str, Any]:
    return {**where, "act": act, "sender": "s", "n": n, **fields}


def judge(
    records: list[Record], fenced: Lives | None = None, faults: Iterable[Fault] = (), killed: Deaths | None = None
) -> list[str]:
    return [str(each) for each in Judge(records, fenced, faults, killed).violations]


GOOD = story(
    ("init", 1, {**A, "act": "a1"}),
    ("begin", 2, msg(A, "a1", 1)),
    ("end", 3, msg(A, "a1", 1)),
    ("shutdown", 4, {**A, "act": "a1"}),
    ("over", 4, {**A, "act": "a1"}),
    ("init", 5, {**B, "act": "b1"}),
    ("begin", 5, msg(B, "b1", 2)),
    ("end", 5, msg(B, "b1", 2)),
)


def test_a_story_without_a_fault() -> None:
    assert judge(GOOD) == []
    Judge(GOOD).acquit(at_least=2)
    with pytest.raises(AssertionError, match="only 2 messages were handled"):
        Judge(GOOD).acquit(at_least=3)


def test_a_failover() -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("init", 6, {**B, "act": "b1"}),
        ("begin", 6, msg(B, "b1", 2)),
        ("end", 6, msg(B, "b1", 2)),
        ("end", 9, msg(A, "a1", 1, note="fenced")),
    )
    assert judge(records, {("a", 10): 5.0}) == []
    assert judge(records[:-1], killed={1: 5.0}) == []
    assert "was not over" in judge(records)[0]
    assert "runs beside" in judge(records)[1]
    assert "was not over" in judge(records, {("a", 10): 7.0})[0]


@pytest.mark.parametrize(("killed", "is_excused"), [(5.0, True), (5.999, True), (6.001, False), (50.0, False)])
def test_a_kill_excuses_no_overlap_before_it(killed: float, is_excused: bool) -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("init", 6, {**B, "act": "b1"}),
        ("begin", 6.0005, msg(B, "b1", 2)),
        ("end", 6.0005, msg(B, "b1", 2)),
    )
    found = judge(records, killed={1: killed})
    assert (found == []) is is_excused
    if not is_excused:
        assert "began while a1 on a was not over" in found[0]
        assert [each for each in found[1:] if "runs beside s 1 of a1 on a" not in each] == []
        assert len(found) == 3
    assert len(judge(records, killed={2: killed})) == 3, "it was another process"


def test_two_activations_at_once() -> None:
    found = judge(story(("init", 1, {**A, "act": "a1"}), ("init", 2, {**B, "act": "b1"})))
    assert len(found) == 1
    assert "began while a1 on a was not over" in found[0]


def test_a_message_in_an_older_life() -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("init", 6, {**B, "act": "b1"}),
        ("begin", 7, msg(A, "a1", 1)),
        ("end", 7, msg(A, "a1", 1)),
    )
    found = judge(records, {("a", 10): 5.0})
    assert any("began in an older life than b1" in each for each in found)
    assert any("2.000 s after its life was fenced" in each for each in found)


def test_a_message_after_the_fence_though_nobody_has_taken_the_actor() -> None:
    found = judge(story(("init", 1, {**A, "act": "a1"}), ("begin", 5.2, msg(A, "a1", 1))), {("a", 10): 5.0})
    assert len(found) == 1
    assert "after its life was fenced" in found[0]


def test_a_message_after_the_lease() -> None:
    found = judge(story(("init", 1, {**A, "act": "a1"}), ("begin", 5.2, msg(A, "a1", 1, left=-0.1))))
    assert len(found) == 1
    assert "its lease had ended" in found[0]


def test_only_the_first_record_after_a_pause_is_grey() -> None:
    def after(pause_end: float, *times: float) -> list[str]:
        begins: list[Line] = [("begin", t, msg(A, "a1", n, left=-1.0)) for n, t in enumerate(times, 1)]
        ends: list[Line] = [("end", t, msg(A, "a1", n, note="fenced")) for n, t in enumerate(times, 1)]
        both = [line for pair in zip(begins, ends, strict=True) for line in pair]
        lines = [("init", 1, {**A, "act": "a1"}), ("resumed", pause_end, {"pid": 1}), *both]
        return judge(story(*lines), {("a", 10): 5.0})

    assert after(7.0, 7.01) == []
    assert len(after(7.0, 7.01, 7.02)) == 2
    assert len(after(7.0, 7.2)) == 2


@pytest.mark.parametrize(("end", "is_excused"), [(7.01, True), (7.2, False)])
def test_a_process_paused_before_it_wrote_the_end(end: float, is_excused: bool) -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("init", 6, {**B, "act": "b1"}),
        ("resumed", 7, {"pid": 1}),
        ("end", end, msg(A, "a1", 1)),
    )
    assert (judge(records, {("a", 10): 5.0}) == []) is is_excused


@pytest.mark.parametrize(("note", "is_excused"), [("b", True), ("a", False), ("", False)])
def test_a_message_that_was_sent_to_a_host_that_has_never_had_the_actor(note: str, is_excused: bool) -> None:
    records = [Record("sent", 3.0, 9, "c", ref="r", sender="s", n=1, note=note)]
    assert (judge(records, faults=[Fault(2.0, 4.0, ("b",))]) == []) is is_excused


@pytest.mark.parametrize(("choice", "is_excused"), [("b", True), ("a", False)])
def test_a_message_that_was_sent_to_a_host_that_took_itself_for_the_owner(choice: str, is_excused: bool) -> None:
    records = [
        Record("sent", 2.9, 8, "b", ref="r", sender="t", n=1, note=choice),
        Record("sent", 3.0, 9, "c", ref="r", sender="s", n=1, note="a"),
    ]
    assert (judge(records, faults=[Fault(2.0, 4.0, ("b",))]) == []) is is_excused


@pytest.mark.parametrize(("times", "is_excused"), [((1,), True), ((1, 1), False)])
def test_a_message_that_a_fault_may_have_cost_may_come_late_but_once(times: tuple[int, ...], is_excused: bool) -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 2)),
        ("end", 2, msg(A, "a1", 2)),
        *(line for n in times for line in (("begin", 3, msg(A, "a1", n)), ("end", 3, msg(A, "a1", n)))),
    )
    assert "came after 2" in judge(records)[0]
    assert (judge(records, faults=[Fault(0.0, 1.0, ("a",))]) == []) is is_excused
    assert judge(records, faults=[Fault(0.0, 1.0, ("b",))]) != []


@pytest.mark.parametrize(
    ("ends", "is_excused"),
    [((6.0,), False), ((9.0,), True), ((3.1, 9.0), True), ((None,), True)],
    ids=["is over", "hangs", "two, one after the other", "never ends"],
)
def test_what_waits_for_a_handler_that_hangs_is_in_danger_meanwhile(
    ends: tuple[float | None, ...], is_excused: bool
) -> None:
    lines: list[Line] = [("init", 1, {**A, "act": "a1"})]
    begun = 2.0
    for n, end in enumerate(ends, 1):
        lines.append(("begin", begun, msg(A, "a1", n)))
        if end is not None:
            lines.append(("end", end, msg(A, "a1", n)))
            begun = end + 0.001
    lost = Record("sent", 3.0, 9, "c", ref="r", sender="s", n=9)
    records = [lost, *story(*lines), Record("state", 20.0, 9, "c")]
    late = Fault(5.0, 12.0, ("a",))
    assert (judge(records, faults=[late]) == []) is is_excused
    for other in (
        judge(records, faults=[Fault(5.0, 12.0, ("b",))]),  # a fault of another host
        judge(records, faults=[late], fenced={("a", 10): 4.0}),  # it waits no longer than its host lives,
        judge(records, faults=[late], killed={1: 4.0}),  # or its process
    ):
        assert len(other) == 1
        assert "lost without a word" in other[0]


def test_handlers_that_overlap() -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("begin", 3, msg(A, "a1", 2)),
        ("end", 4, msg(A, "a1", 1)),
        ("end", 4, msg(A, "a1", 2)),
    )
    assert any("runs beside s 1 of a1" in each for each in judge(records))


def test_a_successor_that_comes_before_the_handler_has_returned() -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("over", 2, {**A, "act": "a1"}),
        ("init", 3, {**B, "act": "b1"}),
        ("end", 4, msg(A, "a1", 1, note="killed")),
    )
    found = judge(records)
    assert len(found) == 1
    assert "runs beside s 1 of a1 on a" in found[0]


def test_who_is_overtaken_must_be_fenced() -> None:
    records = story(
        ("init", 1, {**A, "act": "a1"}),
        ("begin", 2, msg(A, "a1", 1)),
        ("init", 6, {**B, "act": "b1"}),
        ("end", 9, msg(A, "a1", 1)),
    )
    found = judge(records, {("a", 10): 5.0})
    assert len(found) == 1
    assert "as if nothing had happened" in found[0]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1)], ids=["out of order", "twice"])
def test_order(numbers: tuple[int, int]) -> None:
    lines: list[Line] = [("init", 1.0, {**A, "act": "a1"})]
    for n in numbers:
        lines += [("begin", 2.0, msg(A, "a1", n)), ("end", 2.0, msg(A, "a1", n))]
    found = judge(story(*lines))
    assert len(found) == 1
    assert "came after" in found[0]


def test_a_message_that_is_lost() -> None:
    records = [Record("sent", 3.0, 9, "c", ref="r", sender="s", n=1)]
    assert "lost without a word" in judge(records)[0]
    assert judge(records, faults=[Fault(2.0, 4.0)]) == []
    assert "lost without a word" in judge(records, faults=[Fault(4.0, 5.0)])[0]
    assert judge([*records, Record("dead", 4.0, 9, "c", ref="r", sender="s", n=1)]) == []


@pytest.mark.parametrize(
    ("hosts", "excused"),
    [(("c",), True), (("a",), True), (("b",), False), (("a", "c"), True), (("c", "b"), False), (("a", "b"), False)],
)
def test_only_hosts_on_the_way_of_a_message_excuse_its_loss(hosts: tuple[str, ...], excused: bool) -> None:
    records = [
        Record("init", 1, **A, ref="r", act="a1"),
        Record("init", 20, **B, ref="r", act="b1"),
        Record("sent", 3.0, 9, "c", ref="r", sender="s", n=1),
    ]
    records[0:1] = [records[0], Record("over", 2, **A, ref="r", act="a1")]
    assert (judge(records, faults=[Fault(2.0, 4.0, hosts)]) == []) is excused


def test_a_schedule_is_handled_once_at_least() -> None:
    made = Record("scheduled", 0.0, 9, "c", ref="r", sender="timed:c", n=1)
    begun = [
        Record("init", 1, **A, ref="r", act="a1"),
        Record("begin", 2, **A, ref="r", act="a1", sender="timed:c", n=1),
    ]
    end = Record("end", 3, **A, ref="r", act="a1", sender="timed:c", n=1)
    assert judge([made, *begun, end]) == []
    assert judge([made, *begun, end, begun[1], end]) == []
    assert "never handled to its end" in judge([made, *begun])[0]


def test_a_request_that_has_no_end() -> None:
    asked = Record("asked", 0.0, 9, "c", ref="r", sender="s", n=1)
    assert judge([asked]) == []
    assert "neither a reply nor an error" in judge([asked, Record("stopped", 3.0, 9, "c")])[0]


def test_an_epoch_that_goes_back() -> None:
    records = story(
        ("init", 1, {**A, "epoch": 12, "act": "a2"}),
        ("over", 2, {**A, "epoch": 12, "act": "a2"}),
        ("init", 3, {**A, "act": "a1"}),
    )
    found = judge(records)
    assert len(found) == 1
    assert found[0].startswith("epochs: epoch 10 after 12")
    assert found[0].count("'what'") == 2, "two records prove it"


def test_accounts_that_do_not_fit() -> None:
    begun = [Record("init", 1, **A, ref="r", act="a1"), Record("begin", 2, **A, ref="r", act="a1", sender="s", n=1)]
    sent = Record("sent", 0.0, 9, "c", ref="r", sender="s", n=1)
    dead = Record("dead", 4.0, 9, "c", ref="r", sender="s", n=1)
    assert judge([sent, *begun]) == []
    assert "nobody has sent this" in judge(begun)[0]
    assert "a dead letter as well" in judge([sent, *begun, dead])[0]
    found = judge([sent, dead, dead, dead])
    assert "3 dead letters" in found[0]
    assert found[0].count("'what'") == 4, "the message and its letters prove it"
    refused = Record("refused", 0.0, 9, "c", ref="r", sender="s", n=1)
    assert "refused, and handled all the same" in judge([refused, *begun])[0]


def test_a_sender_that_was_killed_may_have_sent_one_more_than_it_could_write_down() -> None:
    sent = Record("sent", 0.0, 9, "c", ref="r", sender="s", n=1)
    records = [sent, Record("init", 1, **A, ref="r", act="a1")]
    for n in (1, 2):
        both = {**A, "ref": "r", "act": "a1", "sender": "s", "n": n}
        records += [Record("begin", 2, **both), Record("end", 2, **both)]
    assert "nobody has sent this" in judge(records)[0]
    assert judge(records, killed={9: 1.0}) == []
    records[-2].n = records[-1].n = 3
    assert "nobody has sent this" in judge(records, killed={9: 1.0})[0], "they come one after the other"


def verdict(sent: int, lost: int, late: int, faults: Iterable[Fault]) -> Judge:
    """Return the judge of a second of messages: the first ones are lost, others come late, the rest is handled."""
    numbers = range(1, sent + 1)
    records = [Record("sent", n / sent, 9, "c", ref="r", sender="s", n=n) for n in numbers]
    records.append(Record("init", 1, **A, ref="r", act="a1"))
    handled = [*range(lost + late + 1, sent + 1), *range(lost + 1, lost + late + 1)]
    for n in handled:
        records += [Record(what, 2, **A, ref="r", act="a1", sender="s", n=n) for what in ("begin", "end")]
    found = Judge(records, None, faults)
    assert found.violations == []
    assert (found.sent, len(found.lost), len(found.late)) == (sent, lost, late)
    found.limit_excuses()
    return found


@pytest.mark.parametrize(
    ("sent", "lost", "late", "is_too_much"),
    [(1000, 40, 0, False), (1000, 41, 0, True), (1000, 20, 20, False), (1000, 20, 21, True), (100, 10, 10, False)],
)
def test_faults_excuse_no_more_than_a_few(sent: int, lost: int, late: int, is_too_much: bool) -> None:
    found = verdict(sent, lost, late, [Fault(0.0, 0.5, ("a",))]).violations
    assert [each.invariant for each in found] == ["losses"] * is_too_much
    for each in found:
        assert f"{lost} of {sent} messages were lost and {late} late; faults excuse 40" in each.text
        assert {record.what for record in each.proof} == ({"sent", "begin"} if late else {"sent"})


@pytest.mark.parametrize(("until", "is_enough"), [(0.94, True), (0.96, False)])
def test_some_messages_must_have_had_no_fault_on_their_way(until: float, is_enough: bool) -> None:
    found = verdict(1000, 0, 0, [Fault(0.0, until, ("a",))])
    assert found.outside == 1000 - round(until * 1000)
    assert [each.invariant for each in found.violations] == ["events"] * (not is_enough)


def test_replies() -> None:
    asked = Record("asked", 0.0, 9, "c", ref="r", sender="s", n=1)
    begun = [Record("init", 1, **A, ref="r", act="a1"), Record("begin", 2, **A, ref="r", act="a1", sender="s", n=1)]
    replied = Record("replied", 3.0, 9, "c", ref="r", sender="s", n=1, note="a1")
    assert judge([asked, *begun, replied]) == []
    assert "a second reply" in judge([asked, *begun, replied, replied])[0]
    assert "another's reply" in judge([asked, replied])[0]
    wrong = Record("replied", 3.0, 9, "c", ref="r", sender="s", n=1, note="b7")
    assert "another's reply" in judge([asked, *begun, wrong])[0]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    assert read(path) == []
    one, other = Witness(str(path), "a"), Witness(str(path), "b")
    one.record("begin", epoch=3, ref="r", act="1-1", sender="s", n=1, left=1.5)
    other.record("state", note="frozen")
    first, second = read(path)
    assert (first.what, first.host, first.epoch, first.ref, first.n, first.left) == ("begin", "a", 3, "r", 1, 1.5)
    assert (second.what, second.host, second.note) == ("state", "b", "frozen")
    assert first.t <= second.t
    with path.open("ab") as file:
        file.write(b'{"what": "beg')
    assert len(read(path)) == 2, "one is being written"
    one.close()
    other.close()
