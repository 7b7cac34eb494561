"""report.html: what a person wants to see of a folder, in one file that can be mailed.

It is made of the folder alone, so that it can be made again at any time, from anywhere. What else is asked
for (patches of a slide) is looked for where the commands say it was, and said to be away where it is not.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from wsitool.base.files import check_writable, replace_file
from wsitool.base.paths import shown
from wsitool.curate.folders import kind_of_folder
from wsitool.errors import UsageError
from wsitool.pages.registry import PAGES, Folder
from wsitool.report.page import Page, read_commands

__all__ = ["PAGE", "write_page"]

PAGE = "report.html"
_ROOM = 2_800_000  # bytes of pictures; base64 makes a third more of them, and the page stays below 5 MB
_MOST_COMMANDS, _MOST_LETTERS = 20, 4000


def write_page(folder: str | Path, *, command: Sequence[str] = ()) -> Path:
    """Write `folder`/report.html and return its path; `command`, in words, is what has just written there.

    Commands of an earlier page stay on it. UsageError where no command of wsitool wrote the folder; an
    experiment's own page is left as it is.
    """
    folder = Path(folder)
    kind = kind_of_folder(folder)
    path = folder / PAGE
    if kind == "experiment":
        if not path.is_file():
            raise UsageError(
                f"The experiment in '{folder}' has no page yet: run it again, which keeps finished cells."
            )
        return path
    if kind is None or kind not in PAGES:
        raise UsageError(
            f"'{folder}' is no folder that tile, import, pretrain, embed, classify, predict or experiment "
            "wrote: name one of theirs."
        )
    check_writable(folder)
    commands = [_short(words) for words in read_commands(path)]
    if command:
        words = _short([shown(word) for word in command])
        # The latest is last, however often it was run.
        commands = [*(other for other in commands if other != words), words][-_MOST_COMMANDS:]
    entry = PAGES[kind]
    page = Page(f"{entry.title}: {shown(folder.resolve().name)}", room=_ROOM, commands=commands)
    entry.draw(page, Folder(path=folder, commands=tuple(map(tuple, commands))))
    page.section("To repeat it")
    if commands:
        for words in commands:
            page.code(shlex.join(words))
    else:
        page.text("The command line was not kept, as this page was made afterwards.")
    text = page.html().encode()
    # A command that finds its work done leaves all files as they are.
    if not path.is_file() or path.read_bytes() != text:
        replace_file(path, text)
    return path


def _short(words: Sequence[str]) -> list[str]:
    """The words of a command; of a thousand slides some, and how many more there were."""
    kept: list[str] = []
    room = _MOST_LETTERS
    for number, word in enumerate(words):
        room -= len(word) + 3
        if room < 0:
            return [*kept, f"... ({len(words) - number} more)"]
        kept.append(word)
    return kept
