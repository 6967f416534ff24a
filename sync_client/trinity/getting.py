"""Finding the server and the run that a Trinity-RFT configuration means."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from sync_client.trinity.embedded import embedded_server
from sync_client.trinity.handle import SynchronizerHandle
from sync_client.trinity.runs import get, run_id
from sync_client.trinity.session import session_of
from sync_client.trinity.settings import Settings

EMBEDDED = "embedded"
"""In place of an address: a server of this host, started by the first who asks for it."""


def get_actor(
    config: Any = None, namespace: str | None = None, *, server: str | None = None
) -> SynchronizerHandle:
    """A handle to the Synchronizer of a job, in place of `Synchronizer.get_actor`.

    config: Trinity-RFT's configuration, or any object or mapping with the same fields; its
    `ray_namespace` names the run, as `namespace` does (else `WEIGHTSYNC_RUN`, else "default").
    server: HOST:PORT, else `weightsync.server` of the configuration, else `WEIGHTSYNC_SERVER`,
    else localhost:50051; "embedded" starts a server on this host, which ends with the last
    process that uses it. Tokens and TLS files come from the environment, as for SyncClient.

    Nothing is asked of the server yet: the first call waits 30 s for one that was never there, and
    later ones ten minutes for one that went away. Raises InvalidName.
    """
    settings = Settings.of(config, namespace)
    run = run_id(settings.namespace)
    address = server or get(config, "weightsync", "server") or os.environ.get("WEIGHTSYNC_SERVER")
    rebuild = partial(_again, settings, run, address)
    return _handle(settings, run, address, rebuild)


def _again(settings: Settings, run: str, address: str | None) -> SynchronizerHandle:
    """What a pickled handle becomes in another process."""
    return _handle(settings, run, address, partial(_again, settings, run, address))


def _handle(settings: Settings, run: str, address: str | None, rebuild: Any) -> SynchronizerHandle:
    if address == EMBEDDED:
        address = embedded_server(run)
    return SynchronizerHandle(session_of(address, run, settings), rebuild)
