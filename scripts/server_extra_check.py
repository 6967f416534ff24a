"""Does `weightsync[server]` hold all that the server needs to start, serve and stop, without torch?

Run by scripts/compat.sh with the Python of an environment that holds the built wheel, its base
dependencies without torch, and the `server` extra. Prints one line and exits 0, or ends with what
failed. `requirements` as its argument lists what to install there, from the wheel's own metadata.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

STARTUP = 30.0  # seconds until the ready file must be there
POLL = 0.05  # seconds
STOPPING = 15.0  # seconds from SIGTERM to the end


def requirements() -> list[str]:
    """What the installed wheel asks for with its extras `server` and `cli`, without torch."""
    # In an environment that is still bare, pip's own copy of packaging is the only one.
    from pip._vendor.packaging.requirements import Requirement

    asked = [Requirement(line) for line in metadata.requires("weightsync") or []]
    return [
        f"{r.name}{r.specifier}"
        for r in asked
        if r.name not in ("torch", "weightsync")
        and (
            r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", "cli", "server"))
        )
    ]


def check(directory: Path) -> str:
    """Starts a server with its files in `directory`, asks its health, stops it; returns it."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    ready = directory / "ready"
    command = [str(Path(sys.executable).with_name("weightsync")), "serve", "--listen"]
    command += ["127.0.0.1:0", "--data-dir", str(directory / "data"), "--ready-file", str(ready)]
    server = subprocess.Popen(command)
    try:
        for _ in range(int(STARTUP / POLL)):
            if ready.exists():
                break
            try:
                raise SystemExit(f"the server ended with {server.wait(timeout=POLL)}")
            except subprocess.TimeoutExpired:
                continue
        with grpc.insecure_channel(json.loads(ready.read_text())["grpc"]) as channel:
            request = health_pb2.HealthCheckRequest()
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stub lists no methods
            reply = stub.Check(request, timeout=10.0)
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=STOPPING)
        assert code == 0, f"the server ended with {code} after SIGTERM"
    finally:
        server.kill()
        server.wait()
    assert reply.status == health_pb2.HealthCheckResponse.SERVING, reply
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def main() -> None:
    if sys.argv[1:] == ["requirements"]:
        print("\n".join(requirements()))
        return
    assert importlib.util.find_spec("torch") is None, "torch is installed: this proves nothing"
    with tempfile.TemporaryDirectory() as directory:
        state = check(Path(directory))
    print(f"compat: weightsync[server] without torch starts, is {state}, and stops at SIGTERM")


if __name__ == "__main__":
    main()
