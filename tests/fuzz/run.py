"""Fuzz the command line: python tests/fuzz/run.py [--kind readers] [--seed 3] [--count 100] [--keep FOLDER].

Every case is made from (kind, seed, number) alone, in a fork of its own; each of its commands runs in a
further fork. A failing case is printed with the command that repeats it. Exit code 1 if any failed.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Threads at the moment of a fork would be lost with their locks: no library may start any.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(importlib.import_module("fuzz.session").main(__doc__))
