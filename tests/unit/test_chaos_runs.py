"""The plans of chaos runs, and what their command makes of seeds and planted bugs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos import command
from tests.chaos.excuses import Fault
from tests.chaos.judge import Judge, Violation
from tests.chaos.plan import FAULTS, HANG, LEASE, Step, make_plan
from tests.chaos.plants import PLANTS
from tests.chaos.runner import OPTIONS, Outcome, Run, Settings, lost_leases
from tests.chaos.witness import Record


def plan(seed: int, seconds: float = 600.0, faults: Sequence[str] = tuple(FAULTS)) -> list[Step]:
    return make_plan(seed, seconds, "abc", faults)


def test_a_seed_makes_the_same_plan_each_time() -> None:
    assert plan(7) == plan(7) != plan(8)
    assert plan(7, 60.0) == [step for step in plan(7) if step.at < 60.0]
    assert [step.fault for step in plan(7, 30.0) if step.hang] == [s.fault for s in plan(7, 30.0) if s.fault == "hang"]


def test_receivers_hang_for_less_and_for_more_than_a_request_and_a_lease_last() -> None:
    hangs = [step.hang for step in plan(1, 3600.0, ["hang"])]
    assert HANG[0] <= min(hangs) < LEASE / 2
    assert max(LEASE, OPTIONS["request_timeout"]) + 1.0 < max(hangs) <= HANG[1]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (3,)), ("1..4", (1, 2, 3, 4)), ("7,13,23", (7, 13, 23)), ("1..3,9,2..4", (1, 2, 3, 9, 4))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert command._parse(["--seeds", text]).seeds == seeds


@pytest.mark.parametrize("text", ["", "a", "4..1", "1..", "..2", "1,,2", "1-3", "-1"])
def test_seeds_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command._parse([f"--seeds={text}"])
    assert "must be numbers and A..B" in capsys.readouterr().err


def test_each_invariant_has_a_planted_bug() -> None:
    assert {plant.invariant for plant in PLANTS.values()} == {
        "one activation",
        "epochs",
        "lease",
        "order",
        "replies",
        "accounts",
        "schedules",
    }


@pytest.mark.parametrize("keep", [True, False])
def test_a_planted_bug_leaves_something_behind_only_if_it_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run that found its bug left a folder in /tmp."""

    def child(words: Sequence[object], result: Path, log: Path) -> Outcome:
        folder = Path(str(words[words.index("--keep") + 1]))
        (folder / "seed-1").mkdir(parents=True)
        for file in (result, log, folder / "seed-1" / "witness"):
            file.write_text("")
        is_found = "batch-backwards" not in words or "2" in str(words[words.index("--seed") + 1])
        plant = PLANTS[str(words[words.index("--plant") + 1])]
        return Outcome(seed=1, violations=[Violation(plant.invariant, "found")] if is_found else [])

    monkeypatch.setattr(command, "_child", child)
    monkeypatch.chdir(tmp_path)
    assert command.main(["--planted", "--parallel", "2", *(["--keep", "here"] if keep else [])]) == 0
    folder = tmp_path / ("here" if keep else "chaos-runs")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"plant-batch-backwards-1"}
    assert (folder / "plant-batch-backwards-1" / "seed-1" / "witness").exists()
    logs = {path.name for path in folder.glob("*.log")}
    assert len(logs) == (len(PLANTS) + 1 if keep else 1)
    told = capsys.readouterr().out
    assert f"{len(PLANTS)} planted bugs, {len(PLANTS)} found" in told
    assert "batch-backwards: not found with seed 1" in told


def test_a_run_that_breaks_is_no_run_that_went_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug whose runs broke counted as found, and a seed whose run broke was not counted at all."""

    def child(words: Sequence[object], result: Path, log: Path) -> Outcome:
        if "batch-backwards" in words or words[1] == 2:
            raise ValueError("the result is cut off")
        plant = PLANTS[str(words[words.index("--plant") + 1])] if "--plant" in words else None
        if "--keep" in words:
            Path(str(words[words.index("--keep") + 1])).mkdir()
        log.write_text("")
        result.write_text("")
        return Outcome(seed=int(str(words[1])), violations=[Violation(plant.invariant, "found")] if plant else [])

    monkeypatch.setattr(command, "_child", child)
    monkeypatch.chdir(tmp_path)
    assert command.main(["--planted", "--parallel", "2"]) == 1
    told = capsys.readouterr().out
    assert f"{len(PLANTS)} planted bugs, {len(PLANTS) - 1} found; not found: batch-backwards" in told
    assert command.main(["--seeds", "1..3", "--parallel", "3", "--report", "table.md"]) == 1
    told = capsys.readouterr().out
    assert "3 seeds: " in told
    assert "1 broken; see seeds 2" in told
    assert "| 2 | - | - | - | - | - | - | the run broke | - |" in Path("table.md").read_text()


@pytest.mark.parametrize("many", [["--seeds", "1..3"], ["--planted"]])
def test_one_bug_is_for_one_run(many: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It was ignored: the seeds were run without the bug, and all bugs instead of the one."""
    with pytest.raises(SystemExit):
        command._parse([*many, "--plant", "batch-backwards"])
    assert "neither --seeds nor --planted goes with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("then", "window"),
    [
        ([("state", 9, "draining", 7), ("state", 9, "stopped", 7), ("stopped", 10, "", 0)], None),
        ([("state", 12, "rejoining", 7), ("state", 14, "active", 8)], (2.0, 16.0)),
        ([("state", 12, "rejoining", 7), ("state", 14, "active", 8), ("stopped", 20, "", 0)], (2.0, 16.0)),
        ([("state", 12, "rejoining", 7), ("state", 13, "draining", 7), ("stopped", 14, "", 0)], (2.0, 12.0)),
        ([], (2.0, 12.0)),
    ],
    ids=["stops in good order", "rejoins", "rejoins and stops", "stops before it has rejoined", "is killed"],
)
def test_who_has_lost_its_lease_may_lose_messages(
    then: list[tuple[str, float, str, int]], window: tuple[float, float] | None
) -> None:
    """A host that was to stop after a pause counted as one that had never lost its lease."""
    records = [
        Record(what, t, 1, "a", epoch, note=note)
        for what, t, note, epoch in [("state", 1.0, "starting", 0), ("state", 2.0, "active", 7), *then]
    ]
    found = lost_leases(records, {("a", 7): 10.0})
    assert found == ([] if window is None else [Fault(*window, ("a",))])


def test_what_is_wrong_with_a_whole_run_is_told_with_the_last_states_of_its_hosts() -> None:
    run = Run(Settings(seed=1, minutes=1.0, faults=("raise",)), print)
    states = [Record("state", t, host=host, note=note) for t, host, note in ((1, "a", "active"), (2, "b", "starting"))]
    frozen = Record("state", 3, host="a", note="frozen")
    outcome = Outcome(seed=1)
    run._report(Judge([*states, frozen]), ["some hosts do not stop"], outcome)
    assert [(each.invariant, each.proof) for each in outcome.violations] == [
        ("recovery", (states[1], frozen)),
        ("events", (states[1], frozen)),
    ]
    assert "only 0 messages were handled, 2000 are the least" in outcome.violations[1].text
    assert "0 messages sent, 0 of them with no fault on their way, 0 lost to faults, 0 late" in outcome.line()
