"""Asking a hub of weights for files, without waiting for one that does not answer."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TypeVar

from wsitool.errors import EncoderError, UsageError

__all__ = ["PATIENCE_SECONDS", "check_push", "from_hub", "patience", "push_folder"]

T = TypeVar("T")

# Between two bytes of a download, not for all of it.
PATIENCE_SECONDS = 20.0
_ANSWER_SECONDS = 5.0
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


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


def check_push(repository: str) -> None:
    """UsageError unless `repository` is ORG/NAME and there is a client to push with."""
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"--push takes ORG/NAME of the hub's repository, got '{repository}'.")
    if find_spec("huggingface_hub") is None:
        raise UsageError("--push needs huggingface-hub: install wsitool[timm].")


def push_folder(folder: Path, repository: str) -> str:
    """Upload `folder` to the repository ORG/NAME, made as a private one if there is none; gives its address.

    By the user's own login, as the hub's client keeps it. EncoderError that names the folder, which is
    written all the same, and how to upload it later.
    """
    from huggingface_hub import HfApi, constants, errors

    later = f"'{folder}' is written and not pushed; upload it by: hf upload {repository} {quote(str(folder))}"
    if constants.HF_HUB_OFFLINE:
        raise EncoderError(f"The hub is not asked, as HF_HUB_OFFLINE says: {later}")
    if not _answers(constants.ENDPOINT):
        raise EncoderError(f"{constants.ENDPOINT} does not answer: {later}")
    try:
        hub = HfApi(endpoint=constants.ENDPOINT)
        # What was learnt of patients is not made public by the way.
        address = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="From wsitool")
    # The last: of the client's HTTP library, which are OSErrors in some versions and not in others.
    except (OSError, RuntimeError, ValueError, getattr(errors, "HTTPError", OSError)) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"The hub does not take it ({said}): {later}") from None
    return str(address)


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
