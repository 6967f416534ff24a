"""Runs a module in a process that does not outlive its parent.

`python -m sync_client.demo.leash MODULE ARGUMENT…` is `python -m MODULE ARGUMENT…`, but when
standard input ends, as it does when the parent dies in whatever way, the process ends itself.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_STDIN = 0
_GRACE_SECONDS = 10.0


def _hold() -> None:
    while os.read(_STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Runs the module that the first argument names with the others."""
    threading.Thread(target=_hold, name="leash", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
