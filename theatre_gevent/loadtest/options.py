"""Flags, profiles, durations and sizes."""

from __future__ import annotations

import argparse
import difflib
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from theatre_gevent.cluster.dsn import parse as parse_dsn
from theatre_gevent.errors import InvalidOption

from .files import Unwritable, check, is_device, real
from .profiling import CPU_FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GIB = 1 << 30
MODES = ("mixed", "forward", "local")
_FILES = ("json", "cpuprofile", "memprofile")
DEFAULT_HOSTS, MAX_HOSTS = 3, 100


class UsageError(Exception):
    """The command line is wrong; the message is one line that says what is allowed."""


class HelpWanted(Exception):
    """The command line asks for help, which is the message."""


@dataclass(frozen=True)
class Profile:
    """A size of load test; times in seconds, sizes in bytes."""

    name: str
    actors: int
    workers: int
    actor_inbox: int
    host_inbox: int
    idle_timeout: float
    memlimit: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("small", 1_000, 10, 64, 4_096, 2.0, 2 * GIB),
        Profile("medium", 10_000, 20, 64, 8_192, 5.0, 2 * GIB),
        Profile("large", 100_000, 50, 32, 16_384, 10.0, 4 * GIB),
        Profile("massive", 1_000_000, 100, 8, 32_768, 30.0, 8 * GIB),
    )
}


@dataclass(frozen=True)
class LoadOptions:
    """One load test, all values settled; times in seconds, sizes in bytes.

    Attributes:
        profile: Name of the profile that the other values were taken from where no flag gave them.
        hosts: Number of hosts.
        inprocess: All hosts live in the command's own process; one alone always does.
        mode: `mixed` (workers on all hosts, random actors), `forward` (all workers on the first host, random actors)
            or `local` (workers on all hosts, which address the actors that the ring gives to their own host).
        dsn: Postgres to use: a connection string, or `embedded` for a private server; None for no database.
        actors: Size of the pool of actors, over all hosts.
        workers: Workers per host.
        actor_inbox: `actor_inbox_size` of the hosts.
        host_inbox: `host_inbox_size` of the hosts.
        idle_timeout: `idle_timeout` of the hosts.
        duration: How long the workers work.
        memlimit: The run ends when the resident memory of all processes exceeds it; 0 for no limit.
        sendpct: Percentage of operations that are sends; the others are requests.
        seed: Of the random choices.
        warm: Activate every actor before the clock starts.
        cpuprofile: Where to write a CPU profile; see `profile_files`.
        memprofile: Where to write a memory profile; see `profile_files`.
        json: Where to write the result.
    """

    profile: str
    hosts: int
    inprocess: bool
    mode: str
    dsn: str | None = field(repr=False)
    actors: int
    workers: int
    actor_inbox: int
    host_inbox: int
    idle_timeout: float
    duration: float
    memlimit: int
    sendpct: int
    seed: int
    warm: bool
    cpuprofile: Path | None
    memprofile: Path | None
    json: Path | None

    @property
    def processes(self) -> int:
        """How many processes are started for hosts; 0: they live in the command's own."""
        return 0 if self.inprocess or self.hosts == 1 else self.hosts

    def for_process(self, name: str) -> LoadOptions:
        """Return the options for a process of one host: with names of profiles that are its own."""
        return replace(self, cpuprofile=_named(self.cpuprofile, name), memprofile=_named(self.memprofile, name))

    def data(self) -> dict[str, Any]:
        """Return plain data for `from_data`."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> LoadOptions:
        """Return the options that were made plain data."""
        paths = {name: Path(data[name]) for name in ("cpuprofile", "memprofile", "json") if data[name] is not None}
        return cls(**{**data, **paths})


def host_names(hosts: int) -> list[str]:
    """Return the ids of so many hosts."""
    return [f"host-{number}" for number in range(1, hosts + 1)]


def _named(path: Path | None, name: str) -> Path | None:
    return None if path is None else path.with_name(f"{path.stem}.{name}{path.suffix}")


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([kmgt])(?:i?b)?)?", re.IGNORECASE)
_POWERS = {"k": 10, "m": 20, "g": 30, "t": 40}


def parse_duration(text: str) -> float:
    """Read `30s`, `2m`, `1h30m`, `500ms` or a bare number of seconds; return seconds.

    Raises:
        ValueError: It is none of these, or not more than 0.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    else:
        raise ValueError(f"must be a duration such as 30s, 2m, 1h30m or 500ms, got {text!r}")
    if not 0 < seconds <= 366 * 86400:
        raise ValueError(f"must be more than 0 and at most a year, got {text!r}")
    return seconds


def parse_size(text: str) -> int:
    """Read `512M`, `2GiB` or a bare number of GiB, `0` for no limit; return bytes.

    Units are powers of 1024, however they are spelled.

    Raises:
        ValueError: It is none of these.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a size such as 512M, 2GiB or 8 (GiB), or 0 for none, got {text!r}")
    size = float(match[1]) * (1 << _POWERS[(match[2] or "g").lower()])
    if size > 1 << 50:
        raise ValueError(f"must be at most 1024T, got {text!r}")
    return int(size)


def parse(argv: list[str]) -> LoadOptions:
    """Read a command line.

    Raises:
        HelpWanted: There is a `-help` in it.
        UsageError: A flag is unknown, out of range, or not available yet.
    """
    parser = _parser()
    # argparse takes unambiguous beginnings of flags with one dash, whatever allow_abbrev says; they are refused here.
    flags = parser._option_string_actions
    for word in argv:
        if not word.startswith("-"):
            continue
        name = word.split("=")[0]
        if name not in flags and not re.match(r"-\d", word):
            raise UsageError(_explain_unknown(name, flags))
    known, unexpected = parser.parse_known_args(argv)
    if unexpected:
        raise UsageError(f"unexpected argument {unexpected[0]!r}: all arguments are flags, see -help")
    return _settle(known)


def _settle(given: argparse.Namespace) -> LoadOptions:
    if given.dsn is not None:
        _check_dsn(given.dsn)
    profile = PROFILES[given.profile]
    values = {name: getattr(given, name) for name in LoadOptions.__dataclass_fields__}
    for name in ("actors", "workers", "actor_inbox", "host_inbox", "idle_timeout", "memlimit"):
        if values[name] is None:
            values[name] = getattr(profile, name)
    cpuprofile: Path | None = values["cpuprofile"]
    if cpuprofile is not None and cpuprofile.suffix not in CPU_FORMATS:
        raise UsageError(f"-cpuprofile must end in {' or '.join(CPU_FORMATS)}, got {str(cpuprofile)!r}")
    options = LoadOptions(**values)
    _check_files(options)
    return options


def _check_dsn(dsn: str) -> None:
    if not dsn:
        raise UsageError("-dsn must be a Postgres connection string or 'embedded', got an empty one")
    if dsn != "embedded":
        try:
            parse_dsn(dsn)
        except InvalidOption as error:
            raise UsageError(f"-{error}; or 'embedded' for a private server") from error


def _check_files(options: LoadOptions) -> None:
    """Find out before the run, not after it, whether each file can be written and is not that of another flag."""
    flag_of: dict[Path, str] = {}
    for flag in _FILES:
        given: Path | None = getattr(options, flag)
        if given is not None:
            try:
                _check_file(options, flag, given, flag_of)
            except Unwritable as error:
                raise UsageError(f"-{flag} {error}") from error


def _check_file(options: LoadOptions, flag: str, given: Path, flag_of: dict[Path, str]) -> None:
    if not given.name:  # the root or nothing, to which no host's name can be added
        raise Unwritable(f"must be a file in a folder that exists, got {str(given)!r}")
    of_processes = [getattr(options.for_process(name), flag) for name in host_names(options.processes)]
    written = list(dict.fromkeys(of_processes)) or [given]
    for path in written:
        check(path)
    # The name that was given counts too: whether two flags may have the same is not to depend on the number of hosts.
    for path in dict.fromkeys([given, *written]):
        other = flag_of.setdefault(real(path), flag)
        if other != flag and not is_device(path):
            raise UsageError(f"-{other} and -{flag} must be two files, got {str(path)!r} for both")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse names every spelling of a flag; the first is enough.
        message = re.sub(r"argument (-\w+)(/--?\w+)*: ", r"\1 ", message)
        raise UsageError(message)

    def print_help(self, file: object = None) -> NoReturn:
        raise HelpWanted(self.format_help().rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="loadtest.py",
        description="Keep hosts busy: workers send to and request from random actors, and the result is printed. Each "
        "host is a process of its own, and together they are a cluster, without a database if -dsn names none.",
        epilog="Profiles: " + "; ".join(map(_describe, PROFILES.values())) + ". Every flag is also spelled with two "
        "dashes. Exit codes: 0 done, 1 the run failed (memory limit, a host crashed, counters that do not balance) or "
        "something could not be printed or written, 2 bad flags, 130 Ctrl+C, 143 SIGTERM. The summary is printed "
        "unless a host crashed or the flags were bad.",
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group("flags")

    def flag(name: str, **settings: Any) -> None:
        group.add_argument(f"-{name}", f"--{name}", **settings)

    flag("profile", choices=PROFILES, default="small", help="sizes, see below; default small")
    flag(
        "hosts",
        type=_count(1, MAX_HOSTS),
        default=DEFAULT_HOSTS,
        metavar="N",
        help=f"number of hosts; default {DEFAULT_HOSTS}",
    )
    flag("inprocess", action="store_true", help="all hosts in one process, as one host alone always is")
    flag("mode", choices=MODES, default="mixed", help=_MODE_HELP)
    flag("dsn", metavar="DSN", help=_DSN_HELP)
    flag("actors", type=_count(1, 100_000_000), metavar="N", help="size of the pool of actors")
    flag("workers", type=_count(1, 100_000), metavar="N", help="workers per host")
    flag("inbox", dest="actor_inbox", type=_count(1, 1 << 30), metavar="N", help="messages waiting for one actor")
    flag("hostinbox", dest="host_inbox", type=_count(1, 1 << 30), metavar="N", help="messages accepted and not handled")
    flag("idle", dest="idle_timeout", type=_duration, metavar="TIME", help="an actor leaves when idle for so long")
    flag("duration", type=_duration, default=30.0, metavar="TIME", help="30s, 2m, 1h30m, 500ms; default 30s")
    flag("memlimit", type=_size, metavar="SIZE", help=_LIMIT_HELP)
    flag("sendpct", type=_count(0, 100), default=70, metavar="N", help="percentage of sends; default 70")
    flag("seed", type=_count(0, (1 << 63) - 1), default=1, metavar="N", help="of the random choices; default 1")
    flag("warm", action="store_true", help="activate every actor before the clock starts")
    flag("cpuprofile", type=Path, metavar="FILE", help=_CPU_HELP)
    flag("memprofile", type=Path, metavar="FILE", help="a text report of live memory by source line (tracemalloc)")
    flag("json", type=Path, metavar="FILE", help="the result as one JSON object")
    group.add_argument("-h", "-help", "--help", action="help", help="this text")
    return parser


_MODE_HELP = (
    "mixed: workers on all hosts, random actors; forward: all workers on the first host; local: the workers of each "
    "host address its own actors; default mixed"
)
_DSN_HELP = (
    "Postgres connection string, for a cluster with leases and ownership; 'embedded' starts a private server and "
    "removes it at the end"
)
_LIMIT_HELP = "end when all processes together hold more resident memory: 8 (GiB), 512M, 0 for none"
_CPU_HELP = (
    "CPU profile (pyinstrument): .html opens in a browser, .json at speedscope.app; with a process for each host, "
    "p.html becomes p.host-1.html and so on"
)


def _describe(p: Profile) -> str:
    return (
        f"{p.name} {p.actors} actors, {p.workers} workers per host, inboxes {p.actor_inbox} and {p.host_inbox}, "
        f"idle timeout {p.idle_timeout:g} s, memory limit {p.memlimit // GIB} GiB"
    )


def _explain_unknown(word: str, flags: Iterable[str]) -> str:
    single = [flag for flag in flags if not flag.startswith("--")]
    close = difflib.get_close_matches("-" + word.lstrip("-"), single, n=1)
    return f"unknown flag {word!r}; " + (f"did you mean {close[0]}?" if close else "allowed: " + ", ".join(single))


def _count(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text, re.ASCII) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return convert


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
