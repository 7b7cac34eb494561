"""Who may ask the server, and what a page may do: loopback, a secret in the address, no foreign content."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

__all__ = ["COOKIE", "Guard"]

COOKIE = "wsitool-view"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Guard:
    """An ASGI application around another.

    Requests need a Host of `hosts` (others are pages of elsewhere whose name was made to point here) and the
    token: once in the address as ?token=..., from then on in the cookie of that name. Only GET and HEAD are
    let through, and POST where it `may_change` something, from a page of this very server.
    """

    def __init__(
        self, app: Any, *, hosts: frozenset[str], token: str, cookie: str = COOKIE, may_change: bool = False
    ) -> None:
        self._app, self._hosts, self._token, self._name = app, hosts, token, cookie
        self._methods = ("GET", "HEAD", "POST") if may_change else ("GET", "HEAD")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            # lifespan; there are no websockets
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").decode("latin-1").lower() not in self._hosts:
            await _answer(send, 421, "This server is not of that name: use the address that wsitool printed.")
        elif scope["method"] not in self._methods:
            await _answer(send, 405, "Nothing can be changed here.")
        elif scope["method"] == "POST" and not self._is_own(headers.get(b"origin")):
            # A page of another port is of the same site for cookies.
            await _answer(send, 403, "Another page may not change anything here.")
        elif self._same(_asked(scope)):
            # Out of the address at once: addresses are kept in histories and shown to bystanders.
            cookie = f"{self._name}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(send, 303, "", (b"location", b"/"), (b"set-cookie", cookie.encode()))
        elif self._same(_cookie(headers.get(b"cookie", b"").decode("latin-1"), self._name)):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _answer(send, 403, "Open the whole address that wsitool printed: its token is missing.")

    def _is_own(self, origin: bytes | None) -> bool:
        """Browsers state the origin of every POST; what is no browser has the token or nothing."""
        return origin is None or origin.decode("latin-1").lower() in {
            f"http://{host}" for host in self._hosts
        }

    def _same(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def _asked(scope: dict[str, Any]) -> str:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    return query.get("token", [""])[0] if scope["path"] == "/" else ""


def _cookie(text: str, wanted: str) -> str:
    pairs = (part.strip().partition("=") for part in text.split(";"))
    return next((value for name, _, value in pairs if name == wanted), "")


def _with_headers(send: Send) -> Send:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    told = [(b"content-type", b"text/plain; charset=utf-8"), *headers, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": text.encode()})
