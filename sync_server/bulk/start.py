"""Where the bulk port listens."""

from __future__ import annotations

import structlog

from sync_server.bulk.exchange import Parts
from sync_server.bulk.port import BulkPort
from sync_server.config import OFF, ServerSettings, split_address
from sync_server.listener import StartError

_log = structlog.get_logger(__name__)


def open_bulk_port(settings: ServerSettings, parts: Parts) -> BulkPort | None:
    """The port, bound; None where it is turned off.

    Raises StartError where an address was asked for that can't be had. The default is the port
    after that of gRPC, or any: clients are told which one it is.
    """
    if settings.http_listen == OFF:
        return None
    host, port = split_address(settings.http_listen or settings.listen)
    limit = settings.http_connections
    if settings.http_listen is None and port:
        try:
            return BulkPort(host, port + 1, parts, limit)
        except (OSError, OverflowError):
            _log.info("the port after that of gRPC is in use; HTTP takes a free one", port=port + 1)
            port = 0
    try:
        return BulkPort(host, port, parts, limit)
    except OSError as error:
        raise StartError(
            f"can't listen on {host}:{port} (http_listen): {error.strerror or error}"
        ) from error
