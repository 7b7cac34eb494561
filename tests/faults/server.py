"""A process that has imported all of wsitool and runs each command in a fork of itself.

Importing torch takes seconds, which thousands of runs cannot each spend. The server itself computes nothing
and starts no thread, so that forking it is safe. Jobs come as JSON lines on standard input; it answers with
the process's number as soon as there is one, and with its wait status when it has ended.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

__all__ = ["serve"]

_MODULES = """
    wsitool.cli.tile wsitool.cli.import_ wsitool.cli.verify wsitool.cli.refilter wsitool.cli.audit
    wsitool.cli.export wsitool.cli.pretrain wsitool.cli.embed wsitool.cli.classify wsitool.cli.predict
    wsitool.cli.experiment wsitool.cli.views wsitool.cli.bench wsitool.cli.plugin wsitool.cli.export_encoder
    wsitool.cli.console wsitool.base.console wsitool.methods.scaffold wsitool.methods.example_views
    wsitool.report.contact_sheet wsitool.backbones.export wsitool.training.bench wsitool.curate.importing
    wsitool.curate.export.run wsitool.curate.refiltering wsitool.predict.embedding wsitool.training
    wsitool.classify wsitool.experiment wsitool.report.curves wsitool.report.scatter wsitool.curate.audit
    wsitool.curate.verifying wsitool_plugins.simclr matplotlib.backends.backend_agg sklearn.linear_model
    timm zarr
"""


def serve() -> dict[str, Any] | None:
    """Answer jobs; returns None at the end of input, and in each forked child its job."""
    for name in _MODULES.split():
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as for a child that has not yet begun
    gc.freeze()  # or each fork would copy all of it
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return job
        print(json.dumps(pid), flush=True)
        print(json.dumps(os.waitpid(pid, 0)[1]), flush=True)
    return None


def _become(job: dict[str, Any]) -> None:
    os.setsid()
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(job["folder"])
    if job["largest_file"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
    if job["unprivileged"]:
        _drop_capabilities()
    sys.argv = ["wsitool", *job["argv"]]


def _drop_capabilities() -> None:
    """Make root obey file permissions, as every user does, with whatever it owns still within its reach."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: 64 bits each
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    job = serve()
    if job is not None:
        _become(job)
        from wsitool.cli import main

        try:
            main()
        except SystemExit as end:
            # Taking so large a process apart would take longer than most commands.
            os._exit(int(end.code or 0))
