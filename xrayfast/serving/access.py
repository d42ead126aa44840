"""Access control: checks of each request's Host, Origin and password, and security headers of each answer."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrayfast.errors import LONGEST_NAME, truncate
from xrayfast.errors.escapes import escape_hidden
from xrayfast.serving.answers import Problem

NO_CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of all answers except the page."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer. There are no CORS headers, so other pages can't read answers."""

_HOST = re.compile(r"([^\[\]:]+|\[[^\[\]]+\])(?::\d*)?")
"""A name or an address (IPv6 in brackets), and an optional port."""


@dataclass(frozen=True)
class Access:
    """The rules by which requests are answered or refused.

    Attributes:
        password: password for HTTP Basic, with any user name; "" for none.
        hosts: names of this machine that a request without a password may use, besides its addresses and localhost.
    """

    password: str = field(default="", repr=False)
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, host: str, password: str) -> Access:
        """Return the rules for a server that listens on this address or name."""
        names = {host, *([] if is_loopback(host) else [socket.gethostname(), socket.getfqdn()])}
        return cls(password, frozenset(name.lower() for name in names))

    def knows_host(self, name: str) -> bool:
        """Whether a request may have this Host.

        A stranger's page whose name resolves to this machine's address (DNS rebinding) sends that name. With a password
        any Host is allowed, because such a page does not know the password.
        """
        found = _HOST.fullmatch(name.lower())
        host = found[1].removesuffix(".") if found else ""
        return bool(self.password) or host == "localhost" or host in self.hosts or _is_address(host.strip("[]"))

    def knows_password(self, authorization: str) -> bool:
        """Whether an Authorization header has the password, which is compared in constant time."""
        if not self.password:
            return True
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, self.password.encode()) and scheme.lower() == "basic"


def is_loopback(host: str) -> bool:
    """Whether an address or name can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI app that refuses requests before `app` reads their content, and adds headers to all answers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                policy = headers.get("Content-Security-Policy", NO_CONTENT_POLICY)
                headers["Content-Security-Policy"] = f"{policy}; frame-ancestors 'none'"
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.access.knows_host(host):
            return refuse(
                403,
                f"The request names the host '{truncate(escape_hidden(host), LONGEST_NAME)}'; expected an address of "
                "this machine, localhost or the name given with --host. Open the page by the address that "
                "'xrayfast serve' printed.",
            )
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") or (
            origin is not None and origin.partition("://")[2] != host
        ):
            return refuse(403, "The request comes from another page. Send it from the page of this server.")
        if not self.access.knows_password(headers.get("authorization", "")):
            basic = {"WWW-Authenticate": 'Basic realm="xrayfast", charset="UTF-8"'}
            return refuse(401, "The password is missing or wrong; expected HTTP Basic, with any user name.", basic)
        return None


def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer with a status and an error message."""
    return Response(Problem(error=message).model_dump_json(), status, headers, "application/json")
