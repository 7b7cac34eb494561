"""Options that other commands, other programs or earlier builds call by another name."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["others_for"]

# Where training starts is --init, what is used as it is is --encoder; and so on.
_ALIKE = (
    ("--encoder", "--init", "--backbone", "--model"),
    ("--device", "--devices", "--accelerator", "--gpus"),
    ("--fraction", "--fractions", "--labels"),
    ("--mpp", "--magnification", "--level", "--resolution", "--default-mpp"),
    ("--out", "--output", "--out-dir", "--save-dir"),
    ("--threads", "--workers", "--num-workers"),
    ("--test", "--test-share", "--folds"),
    ("--patch-size", "--size", "--image-size", "--tile-size"),
)


def others_for(known: Iterable[str], asked: str) -> list[str]:
    """What is called otherwise among the `known`; options "--batch-size" and keys "batch_size" alike."""
    option = f"--{asked.lstrip('-').replace('_', '-')}"
    words = next((words for words in _ALIKE if option in words), ())
    by_option = {f"--{name.lstrip('-').replace('_', '-')}": name for name in known}
    return [by_option[word] for word in words if word in by_option]
