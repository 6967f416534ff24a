"""A server of this host for the processes of one job: started by the first, ended with the last.

They find it by a file in a directory of this user, and hold a shared lock on another one for as
long as they live; the server ends when it gets that lock for itself. The kernel lets go of the
lock of a process that dies, so nobody has to say goodbye.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from sync_client import errors

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_KEEP_SECONDS = 1.0

_log = logging.getLogger("weightsync")

# Held until the process ends, by process and run.
_locks: dict[tuple[int, str], int] = {}


def embedded_server(run: str) -> str:
    """The address of this host's server for `run`, which is started if need be.

    Its state and blobs are in a directory of this user under the temporary directory, and are
    there again for the next job of the same name. Raises ServerUnavailable where it can't be
    started: `weightsync[server]` must be installed.
    """
    directory = _directory(run)
    key = (os.getpid(), run)
    with (directory / "starting").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if key not in _locks:
            users = os.open(directory / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Waits for a server that is just ending, which holds it for itself.
            fcntl.flock(users, fcntl.LOCK_SH)
            _locks[key] = users
            threading.Thread(target=_keep, args=(run, directory), daemon=True).start()
        return _running(directory) or _start(directory)


def _keep(run: str, directory: Path) -> None:
    """Starts the server again, at the same address, when it died."""
    while True:
        time.sleep(_KEEP_SECONDS)
        try:
            if _running(directory) is None:
                with (directory / "starting").open("a") as starting:
                    fcntl.flock(starting, fcntl.LOCK_EX)
                    if _running(directory) is None:
                        _log.warning("the embedded server of run %s died: starting it again", run)
                        _start(directory)
        except (OSError, errors.ServerUnavailable) as error:
            _log.error("the embedded server of run %s: %s", run, error)


def _directory(run: str) -> Path:
    """A directory that nobody else can have made."""
    base = Path(tempfile.gettempdir()) / f"weightsync-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if base.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise errors.ServerUnavailable(f"{base} is not a directory of this user alone: remove it")
    directory = base / run
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _running(directory: Path) -> str | None:
    """The address of the server that serves there."""
    try:
        # Held by the server for as long as it runs, so a pid that was used again fools nobody.
        with (directory / "alive").open("a") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return None
    return _address(directory)


def _address(directory: Path) -> str | None:
    """The address of the server that serves or served there."""
    try:
        return str(json.loads((directory / "ready.json").read_text("utf-8"))["grpc"])
    except (OSError, ValueError, KeyError):
        return None


def _start(directory: Path) -> str:
    """Starts it, where it was if that is possible: others may still look for it there."""
    before = _address(directory)
    if before is not None:
        with contextlib.suppress(errors.ServerUnavailable):
            return _start_at(directory, before)
    return _start_at(directory, "127.0.0.1:0")


def _start_at(directory: Path, listen: str) -> str:
    (directory / "ready.json").unlink(missing_ok=True)
    alive = os.open(directory / "alive", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with (directory / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sync_server", "serve"),
                    *("--listen", listen),
                    *("--data-dir", str(directory / "data")),
                    *("--ready-file", str(directory / "ready.json")),
                    *("--while-locked", str(directory / "users")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is not meant for it
                pass_fds=(alive,),  # the lock goes with the process
            )
    finally:
        os.close(alive)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        address = _running(directory)
        if address is not None:
            return address
        if process.poll() is not None:
            break
        time.sleep(_LOOK_SECONDS)
    raise errors.ServerUnavailable(
        f"the embedded server did not start; it says in {directory / 'server.log'}: "
        f"{_last_line(directory / 'server.log')}"
    )


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError as error:
        return str(error)
    return lines[-1] if lines else "nothing"
