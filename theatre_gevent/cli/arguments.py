"""Subcommands and options of `theatre`, their environment variables, and help."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import HostOptions, check_address
from ..errors import InvalidOption
from ..logic.paging import MAX_LIMIT
from ..logs import FORMATS, LEVELS
from .errors import UsageMistake

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHILD = "-child"
"""First argument of a process that `theatre run` starts."""

RUNS_HOSTS = ("run", "playground")
"""Subcommands that patch the standard library."""

_HAVE_THEIR_OWN = ("drain_timeout", "lease_duration", "log_level")

SETTINGS: dict[str, type] = {
    option.name: type(option.default)
    for option in fields(HostOptions)
    if type(option.default) in (float, int, bool, str) and option.name not in _HAVE_THEIR_OWN
}
"""Options of `Host` that no option of `run` is for, and what they are read as; a text can't give the others."""

EMBEDDED = "embedded"
_URL = "http://127.0.0.1:9090"
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

_EXIT_CODES = """exit codes:
  0    fine; a `run` or `playground` that was told to stop, and did so in good order, too
  1    it failed: a server does not answer, a database refuses, a host does not start
  2    it was asked for wrongly: an option, a module, a connection string, a missing token
  130  Ctrl+C ended it at once
  143  SIGTERM ended it at once: the second one, for `run`

Every option has an environment variable, named in [brackets]; the option counts more."""

_MAIN = f"""examples:
  theatre playground                                     three hosts to look at, with dashboards
  theatre run shop.actors:setup --hosts 4 --dsn embedded four processes and a private database
  theatre status http://127.0.0.1:9090                   what the hosts of a cluster are doing
  theatre actors --type cart --limit 20                  the actors that are active

{_EXIT_CODES}"""

_RUN = """`setup` is a function of yours, called with each Host before it starts:

  # shop/actors.py
  def setup(host):
      host.register_actor("cart", Cart)

If it returns a function, that one is called with the host after the start, in a greenlet of its own.
Each host is a process. One that ends is started again, after 0.5 s, then 1, 2, 4 ... at most 30 s; a minute
without an end starts the count anew. SIGTERM and Ctrl+C let all hosts drain; the second one ends them at once.
A host that its admin server told to drain stays away. When the command itself dies, its hosts drain and end.

examples:
  theatre run shop.actors:setup                                          one host by itself
  theatre run shop.actors:setup --hosts 3 --admin 127.0.0.1:9090         a cluster without a database;
                                                                         admin servers at 9090, 9091 and 9092
  theatre run shop.actors:setup --hosts 4 --dsn postgresql://u@db/shop   leases and failover
  THEATRE_LOG_FORMAT=json theatre run shop.actors:setup --hosts 2        logs for machines"""

_STATUS = """examples:
  theatre status                                    the hosts of the cluster that 127.0.0.1:9090 is in
  theatre status http://10.0.0.7:9090 --json
  THEATRE_ADMIN_TOKEN=... theatre status http://10.0.0.7:9090"""

_ACTORS = """examples:
  theatre actors                                    the first hundred, of all hosts
  theatre actors --type cart --prefix 2026-         those carts whose ids begin so
  theatre actors --limit 1000 --json                for programs; "next" is the --after of the next page"""

_MIGRATE = """Harmless when it was done already, and when several do it at once.

examples:
  theatre migrate postgresql://admin@db/shop
  THEATRE_DSN=postgresql://admin@db/shop theatre migrate"""

_PLAYGROUND = """examples:
  theatre playground                                all three hosts in this process, without a database
  theatre playground --dsn embedded                 with a private Postgres, which is removed at the end
  theatre playground a                              one of the three; start b and c in other terminals"""


class Parser(argparse.ArgumentParser):
    """Complains in one line, and takes what was not given from the environment."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._variables: list[tuple[argparse.Action, str, Any, bool]] = []

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage, of which `--help` says more."""
        command = self.prog.partition(" ")[2]
        raise UsageMistake(f"{message}; see theatre {command + ' ' if command else ''}--help")

    def option(self, *names: str, env: str, default: Any = None, required: bool = False, **options: Any) -> None:
        """Add an option, or a positional argument, that the environment may give as well."""
        text = str(options.pop("help"))
        shown = "" if default in (None, False, []) else f"; default {default}"
        if not names[0].startswith("-"):
            options["nargs"] = "?"
        action = self.add_argument(*names, default=None, help=f"{text}{shown} [{env}]", **options)
        if options.get("action") == "store_true":
            action.default = None
        self._variables.append((action, env, default, required))

    def complete(self, given: argparse.Namespace, environ: Mapping[str, str]) -> None:
        """Put the environment's values, or the defaults, where the arguments gave none."""
        for action, env, default, required in self._variables:
            if getattr(given, action.dest) is not None:
                continue
            value = default
            if environ.get(env):
                _check_text(environ[env], f"environment variable {env}:")
                try:
                    text = environ[env]
                    if isinstance(default, list):  # it may be given again: a word each
                        value = [self._from_text(action, word) for word in text.split()]
                    else:
                        value = self._from_text(action, text)
                except (ValueError, argparse.ArgumentTypeError) as error:
                    self.error(f"environment variable {env}: {error}")
            elif required:
                self.error(f"{action.metavar or action.dest} is missing: give it, or set {env}")
            setattr(given, action.dest, value)

    @staticmethod
    def _from_text(action: argparse.Action, text: str) -> Any:
        if action.nargs == 0:
            return _truth(text)
        value = action.type(text) if callable(action.type) else text
        if action.choices is not None and value not in action.choices:
            raise ValueError(f"must be one of {', '.join(map(str, action.choices))}, got {text!r}")
        return value


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> argparse.Namespace:
    """Return what the arguments ask for; `command` names the subcommand.

    Raises:
        UsageMistake: They make no sense.
        SystemExit: `--help` was printed.
    """
    parser = Parser(prog="theatre", description="Runs and looks at hosts of virtual actors.", epilog=_MAIN)
    parser.add_argument("--version", action="store_true", help="say the version, and whether the hot path is compiled")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    parsers = {
        "run": _run(commands.add_parser("run", help="run hosts, one process each", epilog=f"{_RUN}\n\n{_EXIT_CODES}")),
        "status": _status(
            commands.add_parser("status", help="what hosts are doing", epilog=f"{_STATUS}\n\n{_EXIT_CODES}")
        ),
        "actors": _actors(
            commands.add_parser("actors", help="which actors are active", epilog=f"{_ACTORS}\n\n{_EXIT_CODES}")
        ),
        "migrate": _migrate(
            commands.add_parser("migrate", help="prepare a database", epilog=f"{_MIGRATE}\n\n{_EXIT_CODES}")
        ),
        "playground": _playground(
            commands.add_parser("playground", help="three hosts to play with", epilog=f"{_PLAYGROUND}\n\n{_EXIT_CODES}")
        ),
    }
    for text in argv:
        _check_text(text, "argument")
    given = parser.parse_args(argv)
    if given.command is not None:
        parsers[given.command].complete(given, os.environ if environ is None else environ)
    elif not given.version:
        parser.error(f"a command is missing: {', '.join(parsers)}")
    return given


def _run(parser: Parser) -> Parser:
    parser.description = "Run hosts, one process each, and start those again that end."
    option = parser.option
    option("target", metavar="MODULE:FUNCTION", env="THEATRE_TARGET", required=True, help="who registers the actors")
    option("--hosts", type=_count, default=1, metavar="N", env="THEATRE_HOSTS", help="how many hosts")
    option(
        "--name", type=_word, default="host", env="THEATRE_NAME",
        help="their ids are NAME-1, NAME-2 ...; another on each machine that shares a database",
    )  # fmt: skip
    option(
        "--host-id", type=_word, metavar="ID", env="THEATRE_HOST_ID",
        help="the id of the one host, as it is, instead of --name; for a container with a name of its own",
    )  # fmt: skip
    option("--dsn", env="THEATRE_DSN", help="connection string of the Postgres they share, or 'embedded'")
    option("--no-migrate", action="store_true", default=False, env="THEATRE_NO_MIGRATE", help="leave its tables alone")
    option(
        "--listen", type=_address, metavar="HOST:PORT", env="THEATRE_LISTEN",
        help="address of the first host for the others, the next ones count up; default: free ports of 127.0.0.1",
    )  # fmt: skip
    option(
        "--advertise", type=_address, metavar="HOST:PORT", env="THEATRE_ADVERTISE",
        help="what the others are told instead of --listen, with --dsn; the next ones count up",
    )  # fmt: skip
    option(
        "--admin", type=_address, metavar="HOST:PORT", env="THEATRE_ADMIN",
        help="admin server of the first host, the next ones count up; default: none",
    )  # fmt: skip
    option("--admin-token", env="THEATRE_ADMIN_TOKEN", help="what admin servers demand; others may see arguments")
    option("--secret", env="THEATRE_SECRET", help="what hosts demand of each other; others may see arguments")
    option(
        "--drain-timeout", type=_patience, default=5.0, metavar="SECONDS", env="THEATRE_DRAIN_TIMEOUT",
        help="how long a host that stops waits for its messages",
    )  # fmt: skip
    option(
        "--lease-duration", type=_seconds, default=20.0, metavar="SECONDS", env="THEATRE_LEASE_DURATION",
        help="after which the actors of a host that was killed come alive elsewhere, with --dsn",
    )  # fmt: skip
    option(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", env="THEATRE_SET",
        help="another option of Host, such as idle_timeout=60; may be given again, and the variable takes several",
    )  # fmt: skip
    option("--log-level", type=str.upper, choices=LEVELS, default="INFO", env="THEATRE_LOG_LEVEL", help="the least")
    option("--log-format", choices=FORMATS, default="text", env="THEATRE_LOG_FORMAT", help="'json': an object a line")
    return parser


def _asking(parser: Parser) -> Parser:
    option = parser.option
    option("url", metavar="URL", default=_URL, env="THEATRE_URL", help="an admin server")
    option("--admin-token", env="THEATRE_ADMIN_TOKEN", help="its token; others may see arguments")
    option("--timeout", type=_seconds, default=10.0, metavar="SECONDS", env="THEATRE_TIMEOUT", help="for the answer")
    option("--json", action="store_true", default=False, env="THEATRE_JSON", help="print what it says as it is")
    return parser


def _status(parser: Parser) -> Parser:
    parser.description = "Show the hosts of the cluster that an admin server belongs to."
    return _asking(parser)


def _actors(parser: Parser) -> Parser:
    parser.description = "Show the active actors of all hosts, a page at a time, in the order of their refs."
    _asking(parser)
    parser.option("--type", env="THEATRE_TYPE", help="only those of this type")
    parser.option("--prefix", env="THEATRE_PREFIX", help="only those whose ids begin so")
    parser.option("--limit", type=_limit, default=100, metavar="N", env="THEATRE_LIMIT", help="how many at most")
    parser.option("--after", metavar="CURSOR", env="THEATRE_AFTER", help="where the page before has ended")
    return parser


def _migrate(parser: Parser) -> Parser:
    parser.description = "Make the tables of a cluster, or bring older ones up to date."
    parser.option("dsn", metavar="DSN", env="THEATRE_DSN", required=True, help="connection string")
    parser.option("--timeout", type=_seconds, default=30.0, metavar="SECONDS", env="THEATRE_TIMEOUT", help="a step")
    return parser


def _playground(parser: Parser) -> Parser:
    parser.description = "Run three hosts with echo actors until Ctrl+C."
    parser.option(
        "name", metavar="a|b|c", choices=("a", "b", "c"), env="THEATRE_PLAYGROUND", help="one of the three alone"
    )
    parser.option("--dsn", env="THEATRE_DSN", help="connection string of a Postgres, or 'embedded'")
    return parser


def _check_text(text: str, what: str) -> None:
    """Refuse bytes that are no UTF-8, which Python reads as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageMistake(f"{what} {text!r} is not valid UTF-8") from None


def _truth(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(f"must be one of {', '.join(_WORDS)}, got {text!r}")
    return _WORDS[text.lower()]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in SETTINGS:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, with a NAME of {', '.join(SETTINGS)}, got {text!r}")
    kind = SETTINGS[name]
    if kind is bool:
        try:
            return name, _truth(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name} {error}") from None
    try:
        return name, kind(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name} must be a number, got {value!r}") from None


def _whole(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 256)


def _limit(text: str) -> int:
    return _whole(text, MAX_LIMIT)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, more than 0, got {text!r}")
    return value


def _patience(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _word(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"must be a word, got {text!r}")
    return text


def _address(text: str) -> str:
    try:
        check_address(text, "it")
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
