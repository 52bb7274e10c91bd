"""Small objects in huge pages: asked for by a process of its own, and counted by the kernel."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from theatre_gevent.memory import are_huge_pages_available

HOLD_MANY = """
import json, re, sys
from theatre_gevent.memory import use_huge_pages

before = [(number, str(number)) for number in range(50_000)]  # in arenas of the usual kind, given back below

def pages():
    return 1024 * sum(map(int, re.findall(r"AnonHugePages: +([0-9]+)", open("/proc/self/smaps").read())))

used = use_huge_pages() if sys.argv[1] == "True" else False
assert used == use_huge_pages() if used else True
many = [(number, str(number)) for number in range(500_000)]
held = pages()
assert all(text == str(number) for number, text in many + before)
del many, before
print(json.dumps({"used": used, "held": held, "left": pages()}))
"""


def hold_many(wanted: bool) -> dict[str, int]:
    result = subprocess.run(
        [sys.executable, "-c", HOLD_MANY, str(wanted)], capture_output=True, text=True, timeout=50, check=True
    )
    found: dict[str, int] = json.loads(result.stdout)
    return found


@pytest.mark.skipif(not are_huge_pages_available(), reason="plain Python, or a system without huge pages")
def test_many_objects_are_in_huge_pages_and_give_them_back() -> None:
    with_them, without = hold_many(True), hold_many(False)
    assert with_them["used"]
    assert not without["used"]
    assert with_them["held"] > without["held"] + 20 * 2**20
    assert with_them["left"] < with_them["held"] / 2


@pytest.mark.skipif(are_huge_pages_available(), reason="they are there")
def test_nothing_changes_where_there_are_none() -> None:
    assert not hold_many(True)["used"]
