"""The files of a load test: looked at without a trace, and written without a wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from theatre_gevent.loadtest.files import Unwritable, check, write
from theatre_gevent.loadtest.options import UsageError, parse


def test_a_look_leaves_everything_as_it_was(tmp_path: Path) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_text("before")
    check(there)
    check(new)
    check(Path("/dev/full"))
    assert there.read_text() == "before"
    assert list(tmp_path.iterdir()) == [there]


def test_a_link_may_lead_to_what_does_not_exist_yet(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to("target")
    check(link)
    assert link.is_symlink()
    assert not target.exists()
    write(link, "text")
    assert (link.is_symlink(), target.read_text()) == (True, "text")


@pytest.mark.parametrize("leads_to", ["itself", "no/such/file", "folder"])
def test_a_link_that_leads_nowhere_is_refused(leads_to: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "itself"
    link.symlink_to(leads_to)
    with pytest.raises(Unwritable, match="itself"):
        check(link)
    assert link.is_symlink()


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(Unwritable, match="must not be a FIFO"):
        check(fifo)
    with pytest.raises(Unwritable, match="can't be written"):
        write(fifo, "text")


def test_a_pipe_of_the_shell_is_taken_while_somebody_reads_it() -> None:
    """As `-json >(jq .)` passes it."""
    reader, writer = (
        os.fdopen(number, mode, buffering=0) for number, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
    )
    with reader, writer:
        path = Path(f"/dev/fd/{writer.fileno()}")
        check(path)
        write(path, "text")
        assert reader.read(100) == b"text"
        reader.close()
        with pytest.raises(Unwritable, match="can't be written"):
            write(path, "text")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="'/dev/full' can't be written: No space left on device"):
        write(Path("/dev/full"), "text")
    with pytest.raises(Unwritable, match="Is a directory"):
        write(tmp_path, "text")


@contextmanager
def nobody() -> Iterator[None]:
    """Be somebody to whom permissions apply."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_that_may_not_be_searched_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o600)
    (tmp_path / "link").symlink_to(folder / "p.html")
    parse([])  # so that everything is imported
    refused = r"closed/p(\.host-1)?\.html' can't be written: Permission denied|must be a file in a folder that exists"
    try:
        with nobody():
            for flag in ("-json", "-cpuprofile", "-memprofile"):
                with pytest.raises(UsageError, match=f"^{flag} .*({refused})"):
                    parse([flag, str(folder / "p.html")])
            with pytest.raises(UsageError, match=r"link.*(Permission denied|folder that exists)"):
                parse(["-json", str(tmp_path / "link")])
    finally:
        folder.chmod(0o700)
