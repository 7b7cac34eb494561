"""The process that tiles slides ends with its parent, whichever of its threads notices first."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import os
from wsitool.tiling.worker import _PipeReporter
read, write = os.pipe()
os.close(read)
_PipeReporter(os.fdopen(write, "w")).send("say", "hello")
print("went on")
"""


def test_a_worker_whose_parent_was_killed_ends_without_a_word() -> None:
    run = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
