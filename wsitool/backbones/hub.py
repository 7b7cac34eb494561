"""Asking a hub of weights for files, without waiting for one that does not answer."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from wsitool.errors import EncoderError

__all__ = ["PATIENCE_SECONDS", "from_hub", "patience"]

T = TypeVar("T")

# Between two bytes of a download, not for all of it.
PATIENCE_SECONDS = 20.0
_ANSWER_SECONDS = 5.0


def from_hub(what: str, advice: str, fetch: Callable[[], T]) -> T:
    """What `fetch` gets from the hub, or its cache; EncoderError that says why not, and ends in `advice`."""
    with _hub_or_cache() as silent:
        try:
            return fetch()
        # ValueError: what transformers raises where a file must come from a hub that is not asked.
        except (OSError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"{silent} does not answer, and they are not in the cache" if silent else said[0]
            raise EncoderError(f"{what} cannot be downloaded ({reason}): {advice}.") from None


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block no byte of a download is waited for longer."""
    # The socket module's default, as torch.hub passes no timeout of its own.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _hub_or_cache() -> Iterator[str | None]:
    """Within the block the hub is asked for nothing if it does not answer; gives its address then.

    By itself the hub's client tries again, and says so, for most of a minute.
    """
    from huggingface_hub import constants

    # The module's constants are looked up at each call of the hub's client, so setting one suffices.
    silent = None if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT) else constants.ENDPOINT
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or silent is not None
    try:
        with patience(PATIENCE_SECONDS):
            yield silent
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    """Whether anything comes back from `address`, through the proxies of the environment."""
    try:
        urllib.request.urlopen(
            urllib.request.Request(address, method="HEAD"), timeout=_ANSWER_SECONDS
        ).close()
    except urllib.error.HTTPError:
        # An error from the server is an answer.
        return True
    except OSError:
        return False
    return True
