"""Running the page's server until it is stopped."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from wsitool.errors import UsageError
from wsitool.viewer.library import Library

__all__ = ["serve"]

_SHORTEST_TOKEN = 16
_GRACE_SECONDS = 2
Say = Callable[[str], None]


def serve(
    folders: Sequence[Path], *, host: str, port: int, token: str | None, browser: bool, say: Say
) -> None:
    """Serve the page of `folders` at `host` until SIGINT or SIGTERM, after saying its address.

    UsageError where the extra is not installed, the address cannot be had, or others could ask without a
    token of their own choice.
    """
    try:
        import uvicorn

        from wsitool.viewer.app import make_app
    except ImportError as error:
        raise UsageError(
            f"`wsitool view` needs {error.name}: install the extra, pip install 'wsitool[view]'."
        ) from None
    from wsitool.viewer.guard import Guard

    if token is None and not _is_loopback(host):
        raise UsageError(
            f"--host {host} lets other machines ask: choose a secret for them with --token (at least "
            f"{_SHORTEST_TOKEN} characters), or leave --host out."
        )
    if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
        raise UsageError(
            f"--token needs at least {_SHORTEST_TOKEN} letters and digits, got {len(token)} characters."
        )
    secret = token or secrets.token_hex(16)
    library = Library(folders)
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        names = {host, "127.0.0.1", "localhost"} if _is_loopback(host) else {host, socket.gethostname()}
        hosts = frozenset(f"{_bracketed(name).lower()}:{port}" for name in names)
        config = uvicorn.Config(
            Guard(make_app(library), hosts=hosts, token=secret),
            log_level="error",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        address = f"http://{_bracketed(host)}:{port}/?token={secret}"
        slides = len(library.slides)
        say(f"{slides:,} slides in {len(library.groups):,} folders; Ctrl-C ends it. Open {address}")
        if browser:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}): choose another --port."
        ) from None
