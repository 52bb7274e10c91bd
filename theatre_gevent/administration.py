"""A host's admin server, or none: made when somebody wants it, so that other hosts import nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .admin.app import Application
    from .admin.server import AdminServer
    from .cluster.transport import Transport
    from .host import Host
    from .inspection import Inspection


class Admin:
    """What a host does about its admin server.

    Args:
        host: The host.

    Attributes:
        address: Where it listens, empty where it does not.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._inspection: Inspection | None = None
        self._app: Application | None = None
        self._server: AdminServer | None = None
        self._running = False
        self._began = 0.0, 0.0
        self.address = ""

    @property
    def app(self) -> Application:
        """The WSGI application. It is the same one each time."""
        if self._app is None:
            from .admin.app import Application  # a host by itself needs no HTTP: 0.15 s of its start
            from .inspection import Inspection

            options = self._host.options
            # Other hosts ask by the name of whichever of these `announced` tells them.
            told = (options.admin_addr, options.advertise, options.listen)
            names = [address.rpartition(":")[0] for address in told if address]
            self._inspection = Inspection(self._host)
            self._app = Application(self._inspection, options.admin_token, names)
            if self._running:  # the caller may be a thread of another server's
                self._inspection.run(self._inspection.open, *self._began)
        return self._app

    def open(self) -> None:
        """The host starts: listen, so that the address can be told to others.

        Raises:
            CannotListen: The address is in use, say.
        """
        wanted = self._host.options.admin_addr
        if wanted is not None:
            from .admin.server import AdminServer

            _ = self.app
            self._server = AdminServer(wanted)
            self.address = str(self._server.address)
        self._running = True
        clock = self._host._clock
        self._began = clock.monotonic(), clock.time()
        if self._inspection is not None:
            self._inspection.admin_addr = self.address
            self._inspection.open(*self._began)

    def announced(self, transport: Transport) -> str:
        """Return the address for other hosts, empty for none."""
        if self._server is None:
            return ""
        from .cluster.sockets import Address, is_wildcard

        address = self._server.address
        if is_wildcard(address.host):  # then it is reached where the host itself is
            address = Address((transport.advertise or transport.listen_at).host, address.port)
        return "" if is_wildcard(address.host) else str(address)

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's."""
        if self._server is not None:
            self._server.abandon()
        if self._inspection is not None:
            self._inspection.close()

    def serve(self) -> None:
        """The host has started: answer."""
        if self._server is not None:
            self._server.serve(self.app)

    def close(self) -> None:
        """The host has stopped."""
        self._running = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._inspection is not None:
            self._inspection.close()
