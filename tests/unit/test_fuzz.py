"""What the fuzzers of `tests.fuzz` look for, with fewer inputs; and that they can find it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.targets import HONEST, AdminServers, connection_input, handshake_input
from theatre_gevent.admin.guard import Guard
from theatre_gevent.logic import codec, connection
from theatre_gevent.logic.connection import Connection

EXAMPLES = settings(max_examples=300)


def test_who_is_let_alone_gets_in() -> None:
    assert handshake_input(HONEST) == 2


@EXAMPLES
@given(st.binary(max_size=120))
@example(HONEST)
def test_nobody_gets_in_without_the_secret(data: bytes) -> None:
    handshake_input(data)


@EXAMPLES
@given(st.binary(max_size=400))
def test_a_connection_keeps_its_promises_whatever_comes(data: bytes) -> None:
    connection_input(data)


def test_a_proof_that_is_not_looked_at_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's greeting is passed on, and then an empty proof is made up."""
    attack = bytes([0, 0, 2, 0, 3, 0, sorted(codec.KIND_NAMES).index(codec.PROOF), 2])
    assert handshake_input(attack) == 0
    monkeypatch.setattr(connection, "check_proof", lambda *_: None)
    with pytest.raises(AssertionError, match="without a counterpart"):
        handshake_input(attack)


def test_a_proof_that_does_not_cover_what_was_said_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nonce in a greeting is changed on its way; everything else is passed on."""
    greeting = Connection("dialler", targets.A, nonce=bytes(16), now=0.0, secret=targets.SECRET).data_to_send()
    attack = bytes([0, 1, len(greeting) - 5 - 3, 0, 2, 2, 0, 0, 3, 0, 2])
    assert handshake_input(attack) == 0
    monkeypatch.setattr(connection, "make_proof", lambda secret, role, *_: role.encode())
    with pytest.raises(AssertionError, match="without a counterpart"):
        handshake_input(attack)


@pytest.fixture(scope="module")
def servers() -> Iterator[AdminServers]:
    made = AdminServers()
    yield made
    made.close()


def test_the_admin_server_answers_everything(servers: AdminServers) -> None:
    answers: set[int] = set()

    @EXAMPLES
    @given(st.binary(max_size=200))
    @example(b"\x01\x00\x04")  # with a token, and without it
    @example(b"\x00\x00\x08\x00\x01")
    def ask(data: bytes) -> None:
        answers.add(servers.one_input(data))

    ask()
    assert {200, 400, 401, 403, 404} & answers >= {200, 401}


def test_a_guard_that_lets_everybody_in_is_found(servers: AdminServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "refuse", lambda *_: None)
    status = targets.PATHS.index("/cluster/status")
    with pytest.raises(AssertionError):
        servers.one_input(bytes([1, 0, status]))


def test_a_length_that_is_no_number_is_the_fault_of_who_asks(servers: AdminServers) -> None:
    kind, token = ("CONTENT_TYPE", "application/json"), ("HTTP_AUTHORIZATION", f"Bearer {targets.TOKEN}")
    headers = [(targets.HEADERS.index(name), targets.VALUES.index(value)) for name, value in (kind, token)]
    length = [targets.HEADERS.index("CONTENT_LENGTH"), targets.VALUES.index("2"), 1, ord("x")]
    drain = targets.PATHS.index("/cluster/drain")
    pairs = [number for pair in headers for number in (*pair, 0)]
    assert servers.one_input(bytes([1, targets.METHODS.index("POST"), drain, 0, 0, 0, 3, *pairs, *length, 0])) == 400


def test_an_accept_header_need_not_be_text(servers: AdminServers) -> None:
    accept = [targets.HEADERS.index("HTTP_ACCEPT"), targets.VALUES.index("0"), 1, 0xFC]
    assert servers.one_input(bytes([0, 0, targets.PATHS.index("/metrics"), 0, 0, 0, 1, *accept, 0])) == 200
