"""Connection strings: which servers one names, in the order in which they are tried.

libpq looks names up by itself, and blocks the whole thread meanwhile. So names are looked up here, by whatever
suits the thread, and libpq is given `hostaddr` beside `host`, which it still needs for certificates and passwords.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import parse_dsn

from ..errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Parameters = dict[str, str]

_ENVIRONMENT = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "connect_timeout": "PGCONNECT_TIMEOUT"}


def parse(dsn: str) -> Parameters:
    """Read a connection string, `postgresql://...` or `key=value ...`.

    Raises:
        InvalidOption: It is none. What it says in quotes is left out, since that may be the password.
    """
    if not isinstance(dsn, str):
        raise InvalidOption(f"dsn must be a connection string such as 'postgresql://user@host/database', got {dsn!r}")
    try:
        return {key: str(value) for key, value in parse_dsn(dsn).items()}
    except psycopg2.ProgrammingError as error:
        text = re.sub(r'"[^"]*"', '"..."', str(error).strip())
        raise InvalidOption(f"dsn is not a connection string, {text}") from None


def effective(parameters: Mapping[str, str], name: str) -> str:
    """Return what holds for `name`: of the string, else of the service file, else of the environment; or nothing."""
    if name in parameters:
        return parameters[name]
    return _from_service(parameters).get(name) or os.environ.get(_ENVIRONMENT[name], "")


def servers(
    parameters: Mapping[str, str], resolve: Callable[[str], list[str]]
) -> tuple[list[Parameters], OSError | None]:
    """Return the parameters for each server to try, in order, every one with a single address at most.

    Args:
        parameters: Of the connection string.
        resolve: Looks the addresses of a name up, raises OSError.

    Returns:
        The servers, and the last error of looking names up, if there was one: its name is left out.
    """
    names = effective(parameters, "host").split(",")
    addresses = effective(parameters, "hostaddr").split(",")
    ports = effective(parameters, "port").split(",")
    count = max(len(names), len(addresses))
    if (
        (names != [""] and len(names) != count)
        or (addresses != [""] and len(addresses) != count)
        or len(ports) not in (1, count)
    ):
        return [dict(parameters)], None  # it doesn't fit together: libpq says how
    found: list[Parameters] = []
    failure: OSError | None = None
    for n in range(count):
        name, address, port = (values[n if len(values) > 1 else 0] for values in (names, addresses, ports))
        places = [address]
        if not address and name and name[0] not in "/@":  # those are sockets of this machine
            try:
                places = resolve(name)
            except OSError as error:
                failure = error
                continue
        found.extend(_server(parameters, name, place, port) for place in places)
    return found, failure


def _server(parameters: Mapping[str, str], name: str, address: str, port: str) -> Parameters:
    # Left out where nothing is known, since libpq has defaults of its own; given where something is, so that neither
    # the service file nor the environment adds another.
    one = {key: value for key, value in parameters.items() if key not in ("host", "hostaddr", "port")}
    one.update((key, value) for key, value in (("host", name), ("hostaddr", address), ("port", port)) if value)
    return one


def _from_service(parameters: Mapping[str, str]) -> Parameters:
    """Return what the service file says about the service that is asked for.

    libpq reads it again; this only has to find the names of hosts, and what it can't read libpq complains about.
    """
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    if not service:
        return {}
    found: Parameters = {}
    for file in _service_files(parameters):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        inside = False
        for line in map(str.strip, lines):
            if line.startswith("["):
                if inside:
                    return found
                inside = line == f"[{service}]"
            elif inside and not line.startswith("#"):
                key, _, value = line.partition("=")
                found.setdefault(key.strip(), value.strip())
        if inside:
            break
    return found


def _service_files(parameters: Mapping[str, str]) -> list[Path]:
    files = [
        Path(parameters.get("servicefile") or os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf").expanduser()
    ]
    if "PGSYSCONFDIR" in os.environ:
        files.append(Path(os.environ["PGSYSCONFDIR"]) / "pg_service.conf")
    return files
