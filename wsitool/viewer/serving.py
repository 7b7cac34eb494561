"""Running the page's server until it is stopped."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from wsitool.errors import UsageError
from wsitool.viewer.library import Library

__all__ = ["Say", "check_access", "extra_installed", "run_app", "serve"]

_SHORTEST_TOKEN = 16
_GRACE_SECONDS = 2
Say = Callable[[str], None]


def serve(
    folders: Sequence[Path],
    *,
    regions: Path | None = None,
    host: str,
    port: int,
    token: str | None,
    browser: bool,
    say: Say,
) -> None:
    """Serve the page of `folders` at `host` until SIGINT or SIGTERM, after saying its address.

    Regions that are drawn are kept in the folder `regions`; without it none can be. UsageError where the
    extra is not installed, the address cannot be had, or others could ask without a token of their own
    choice.
    """
    with extra_installed("view"):
        from wsitool.viewer.app import make_app
        from wsitool.viewer.regions import Regions
    check_access(host, token)
    library = Library(folders)
    kept = None if regions is None else Regions(regions)
    run_app(
        make_app(library, kept),
        f"{len(library.slides):,} slides in {len(library.groups):,} folders",
        host=host,
        port=port,
        token=token,
        browser=browser,
        say=say,
        may_change=kept is not None,
    )


@contextmanager
def extra_installed(command: str) -> Iterator[None]:
    """Around the import of an application; UsageError where what it needs is not installed."""
    try:
        import uvicorn  # noqa: F401

        yield
    except ImportError as error:
        raise UsageError(
            f"`wsitool {command}` needs {error.name}: install the extra, pip install 'wsitool[view]'."
        ) from None


def check_access(host: str, token: str | None) -> None:
    """UsageError where others could ask without a token of somebody's choice, or the token is none."""
    if token is None and not _is_loopback(host):
        raise UsageError(
            f"--host {host} lets other machines ask: choose a secret for them with --token (at least "
            f"{_SHORTEST_TOKEN} characters), or leave --host out."
        )
    if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
        raise UsageError(
            f"--token needs at least {_SHORTEST_TOKEN} letters and digits, got {len(token)} characters."
        )


def run_app(
    app: Any,
    said: str,
    *,
    host: str,
    port: int,
    token: str | None,
    browser: bool,
    say: Say,
    cookie: str = "",
    may_change: bool = False,
) -> None:
    """Serve an application behind a `Guard` until SIGINT or SIGTERM, after saying `said` and its address.

    With a `cookie` its name and the port make that of the token's cookie, so that servers side by side do not
    take each other's. UsageError where the address cannot be had.
    """
    import uvicorn

    from wsitool.viewer.guard import COOKIE, Guard

    secret = token or secrets.token_hex(16)
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        names = {host, "127.0.0.1", "localhost"} if _is_loopback(host) else {host, socket.gethostname()}
        hosts = frozenset(f"{_bracketed(name).lower()}:{port}" for name in names)
        name = f"{cookie}-{port}" if cookie else COOKIE
        config = uvicorn.Config(
            Guard(app, hosts=hosts, token=secret, cookie=name, may_change=may_change),
            log_level="error",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        address = f"http://{_bracketed(host)}:{port}/?token={secret}"
        say(f"{said}; Ctrl-C ends it. Open {address}")
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
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}): choose another --port."
        ) from None
    # Connections inherit it. asyncio sets it only where a socket states its protocol; without it each answer
    # waits 40 ms for the browser's acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
