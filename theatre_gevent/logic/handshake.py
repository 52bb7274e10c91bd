"""The handshake: who is there, and may they come in. Pure; the order of its frames is in `connection`.

    dialler                                   acceptor
    HELLO      introduction            ->
                                       <-     CHALLENGE  introduction
    PROOF      proof                   ->
                                       <-     WELCOME    proof

    introduction = array: "theatre", version, host id, epoch, address, cluster, expected host id, secured, nonce,
                   admin address (or nothing)
    proof        = array: bytes; empty where no secret is in use

Either side may answer with REFUSE instead, an array of a code and a text, and end the connection. With a shared
secret, a proof is HMAC-SHA256(secret, "theatre 1 " + role + SHA256(HELLO payload) + SHA256(CHALLENGE payload)): it
covers everything both have said, nonces included, and the roles keep it from being played back to its maker. The
dialler proves itself first, so a port scanner learns nothing but an introduction. A secret is not encryption: messages
travel in the clear unless TLS is used, and short secrets can be guessed offline by who listens. Further elements of an
introduction are ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from msgspec import Struct

from ..errors import InvalidOption
from .codec import VERSION, ProtocolError, decode_control

MAGIC = "theatre"
NONCE_SIZE = 16
MAX_NAME = 255
"""Characters of a host id, address or cluster name."""

WRONG_VERSION, WRONG_HOST, SAME_HOST, WRONG_CLUSTER, WRONG_SECRET, SECRET_MISSING, SECRET_UNUSED, NOT_ADMITTED = (
    "wrong version",
    "wrong host",
    "same host",
    "wrong cluster",
    "wrong secret",
    "secret missing",
    "secret unused",
    "not admitted",
)


class HandshakeError(ProtocolError):
    """The two hosts do not go together. The text says what differs, and on which side.

    Attributes:
        code: One of the constants of this module, or what the peer gave.
        by_peer: True if the peer refused us, False if we refused it.
    """

    def __init__(self, code: str, text: str, by_peer: bool = False) -> None:
        self.code = code
        self.by_peer = by_peer
        super().__init__(f"the peer refused this connection: {text}" if by_peer else text)


class Identity(Struct, frozen=True):
    """What a host says about itself.

    Attributes:
        host_id: Its name, unique in the cluster.
        epoch: Which of its lives this is; grows with each.
        address: Where other hosts reach it, as `host:port`.
        cluster: Hosts only talk to those of the same cluster name.
        admin_addr: Where its admin server is, as `host:port`; empty if it has none.

    Raises:
        InvalidOption: One of them is not usable.
    """

    host_id: str
    epoch: int
    address: str
    cluster: str = ""
    admin_addr: str = ""

    def __post_init__(self) -> None:
        _check(self, InvalidOption)


class Introduction(Struct, frozen=True):
    """The content of HELLO and CHALLENGE."""

    identity: Identity
    expected: str | None
    secured: bool
    nonce: bytes

    def to_wire(self) -> list[Any]:
        """Return the payload."""
        me = self.identity
        head = [MAGIC, VERSION, me.host_id, me.epoch, me.address, me.cluster]
        return [*head, self.expected, self.secured, self.nonce, me.admin_addr]


def read_introduction(kind: int, payload: bytes) -> Introduction:
    """Read HELLO or CHALLENGE.

    Raises:
        HandshakeError: The peer speaks another version.
        ProtocolError: It is no introduction.
    """
    value = decode_control(kind, payload)
    if type(value) is not list or len(value) < 2 or value[0] != MAGIC:
        raise ProtocolError("the peer does not speak this protocol: its first frame is no introduction")
    if value[1] != VERSION:
        raise HandshakeError(
            WRONG_VERSION, f"the peer speaks protocol version {_short(value[1])}, this host speaks version {VERSION}"
        )
    try:
        host_id, epoch, address, cluster, expected, secured, nonce = value[2:9]
        admin_addr = value[9] if len(value) > 9 and type(value[9]) is str else ""
        identity = Identity(host_id, epoch, address, cluster, admin_addr)
        if not (expected is None or type(expected) is str) or type(secured) is not bool:
            raise ValueError("expected host and secured are not what they should be")
        if type(nonce) is not bytes or len(nonce) != NONCE_SIZE:
            raise ValueError(f"the nonce must be {NONCE_SIZE} bytes")
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"the peer's introduction is damaged: {error}") from None
    return Introduction(identity, expected, secured, nonce)


def check_introduction(ours: Introduction, theirs: Introduction) -> None:
    """Refuse a peer that does not go together with this host.

    Args:
        ours: `expected` is the host id that should answer, None for any.
        theirs: What the peer said.

    Raises:
        HandshakeError: With a text for both logs.
    """
    me, peer = ours.identity, theirs.identity
    if me.cluster != peer.cluster:
        raise HandshakeError(
            WRONG_CLUSTER,
            f"host {peer.host_id!r} belongs to cluster {peer.cluster!r}, {me.host_id!r} to {me.cluster!r}",
        )
    if me.host_id == peer.host_id:
        raise HandshakeError(
            SAME_HOST,
            f"host id {me.host_id!r} is used twice: at {me.address} with epoch {me.epoch}, and at {peer.address} with "
            f"epoch {peer.epoch}",
        )
    for introduction, other in ((ours, theirs), (theirs, ours)):
        wanted, found = introduction.expected, other.identity
        if wanted is not None and wanted != found.host_id:
            raise HandshakeError(
                WRONG_HOST, f"host {found.host_id!r} answers at {found.address}, where {_short(wanted)} was expected"
            )
    if ours.secured and not theirs.secured:
        raise HandshakeError(
            SECRET_MISSING, f"host {me.host_id!r} demands the shared secret and {peer.host_id!r} was given none"
        )
    if theirs.secured and not ours.secured:
        raise HandshakeError(
            SECRET_UNUSED, f"host {peer.host_id!r} demands the shared secret and {me.host_id!r} was given none"
        )


def make_proof(secret: bytes | None, role: str, hello: bytes, challenge: bytes) -> bytes:
    """Return what proves that one knows the secret, nothing without one.

    Args:
        secret: The shared secret.
        role: Whose proof it is: `dialler` or `acceptor`.
        hello: Payload of the HELLO frame.
        challenge: Payload of the CHALLENGE frame.
    """
    if secret is None:
        return b""
    said = hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
    return hmac.digest(secret, f"theatre {VERSION} {role}".encode() + said, "sha256")


def check_proof(kind: int, payload: bytes, wanted: bytes, peer: Identity) -> None:
    """Compare in constant time.

    Raises:
        HandshakeError: The peer has another secret.
        ProtocolError: It is no proof.
    """
    value = decode_control(kind, payload)
    if type(value) is not list or not value or type(value[0]) is not bytes:
        raise ProtocolError("the peer's proof is damaged")
    if not hmac.compare_digest(value[0], wanted):
        raise HandshakeError(WRONG_SECRET, f"host {peer.host_id!r} at {peer.address} has another shared secret")


def read_refusal(kind: int, payload: bytes) -> HandshakeError:
    """Return the peer's refusal as an error."""
    value = decode_control(kind, payload)
    if type(value) is list and len(value) >= 2 and type(value[0]) is str and type(value[1]) is str:
        return HandshakeError(value[0][:50], read_reason(value[1]), by_peer=True)
    return HandshakeError("", "for no reason that this version knows", by_peer=True)


def read_reason(text: str) -> str:
    """Return what a peer gives as a reason, fit for a line of the log."""
    text = text[:500]
    return text if text.isprintable() else ascii(text)


def _check(identity: Identity, error: type[ValueError]) -> None:
    for name in ("host_id", "address", "cluster", "admin_addr"):
        value = getattr(identity, name)
        if (
            type(value) is not str
            or len(value) > MAX_NAME
            or not value.isprintable()
            or not (value or name in ("cluster", "admin_addr"))
        ):
            raise error(f"{name} must be printable text of 1 to {MAX_NAME} characters, got {_short(value)}")
    if type(identity.epoch) is not int or not 0 <= identity.epoch < 1 << 63:
        raise error(f"epoch must be an integer of 0 or more below 2**63, got {_short(identity.epoch)}")


def _short(value: Any) -> str:
    text = ascii(value) if type(value) in (str, int, float, bool, bytes, type(None)) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
