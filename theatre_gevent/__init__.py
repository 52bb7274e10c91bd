"""Virtual actors on gevent: the public names.

    from theatre_gevent import Host, Initialize, Ref

Importing the package starts nothing and patches nothing. `build` is `compiled` if the hot path is, else `pure`.
"""

import logging as _logging

from ._accel import build  # first: it decides where everything else comes from
from ._version import __version__
from .clock import Clock, SystemClock
from .config import HostOptions
from .core.context import Context
from .errors import (
    AnswerLost,
    CallCycle,
    CannotListen,
    ClaimLost,
    DatabaseError,
    DatabaseRefused,
    DatabaseUnavailable,
    HostDraining,
    HostFrozen,
    HostIdConflict,
    HostNotRunning,
    InboxFull,
    InvalidOption,
    InvalidRef,
    InvalidSchedule,
    MessageNotSerializable,
    NoOwner,
    PeerDown,
    RegistrationError,
    RemoteActorError,
    RequestTimeout,
    SchemaMismatch,
    StopActor,
    TheatreError,
    UnregisteredActorType,
)
from .host import Host
from .logic.schedules import Schedule
from .logs import LastResort as _LastResort
from .message_types import message
from .messages import DeadLetter, Initialize, InitReason, Receiver, Ref, Shutdown
from .metrics import Metrics
from .migration import migrate_schema

__all__ = [
    "AnswerLost",
    "CallCycle",
    "CannotListen",
    "ClaimLost",
    "Clock",
    "Context",
    "DatabaseError",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "DeadLetter",
    "Host",
    "HostDraining",
    "HostFrozen",
    "HostIdConflict",
    "HostNotRunning",
    "HostOptions",
    "InboxFull",
    "InitReason",
    "Initialize",
    "InvalidOption",
    "InvalidRef",
    "InvalidSchedule",
    "MessageNotSerializable",
    "Metrics",
    "NoOwner",
    "PeerDown",
    "Receiver",
    "Ref",
    "RegistrationError",
    "RemoteActorError",
    "RequestTimeout",
    "Schedule",
    "SchemaMismatch",
    "Shutdown",
    "StopActor",
    "SystemClock",
    "TheatreError",
    "UnregisteredActorType",
    "__version__",
    "build",
    "message",
    "migrate_schema",
]

_logging.getLogger(__name__).addHandler(_LastResort())
