"""The server. It opens its socket before anything is loaded, and is ended by a signal."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xrayfast.errors import ConfigError, importing
from xrayfast.errors.signals import handling_signals, raise_stopped

if TYPE_CHECKING:
    from starlette.types import ASGIApp

GRACE_SECONDS = 3
"""Seconds that requests in progress get when a signal ends the server."""

MAX_CONNECTIONS = 512
"""Largest number of connections; further ones are answered with 503."""


def require_libraries() -> None:
    """Raise a ConfigError if a package that the server needs is missing."""
    with importing("serve needs a package that", "serve"):
        import python_multipart  # noqa: F401 - starlette imports it when the first file arrives
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = (
                f"port is {port}, which another program already uses. Use another port; --port 0 chooses a free one."
            )
        elif error.errno == errno.EACCES:
            message = f"port is {port}, which needs administrator rights; expected 1024 or more."
        else:
            # `create_server` adds the address to the text; errors of name lookup have their own numbers.
            reason = os.strerror(error.errno) if error.errno and error.errno in errno.errorcode else error.strerror
            message = f"host is '{host}' ({reason}); expected an address of this machine, such as 127.0.0.1."
        raise ConfigError(message) from None
    except UnicodeError:
        raise ConfigError(f"host is '{host}'; expected an address of this machine, such as 127.0.0.1.") from None


def address_of(listening: socket.socket) -> str:
    """Return the URL of the page, with this machine's name if the socket listens on all addresses."""
    host, port = listening.getsockname()[:2]
    host = socket.gethostname() if ipaddress.ip_address(host.partition("%")[0]).is_unspecified else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(app: ASGIApp, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until a signal comes, then raise KeyboardInterrupt for Ctrl-C, or else Stopped."""
    import uvicorn

    class Server(uvicorn.Server):
        """A server that ends on the same signals as every command, and calls `ready` once it listens."""

        signals: list[int]

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            self.signals = []
            with handling_signals(self._end):
                yield

        def _end(self, number: int, frame: Any) -> None:
            if self.signals:
                self.force_exit = True
            self.signals.append(number)
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    # All settings are explicit, because other installed packages would change the loop and the parser.
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = Server(config)
    server.run(sockets=[listening])
    if server.signals:
        raise_stopped(server.signals[0], None)
