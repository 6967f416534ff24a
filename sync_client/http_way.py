"""Whether the bulk port is open to a client, and its connections there."""

from __future__ import annotations

import logging
import weakref

from sync_client import errors
from sync_client.connection import Connection
from sync_client.http_wire import Pool, Unreachable

_log = logging.getLogger("weightsync")
# A server that was restarted has another port now and then: the next plan names it.
_ATTEMPTS = 3


class HttpWay:
    """The bulk port as one connection to a server knows it."""

    def __init__(self, connection: Connection) -> None:
        self._server = connection.target.server
        self.pool = Pool()
        self.open = True
        """False once it is known that nothing comes through."""
        self._failures = 0
        connection.on_close.append(self.pool.close)

    @classmethod
    def of(cls, connection: Connection) -> HttpWay:
        """That of a connection, made once."""
        found = _ways.get(connection)
        if found is None:
            found = _ways[connection] = cls(connection)
        return found

    def worked(self) -> None:
        """Bytes came through."""
        self._failures = 0

    def failed(self, error: errors.SyncError) -> bool:
        """Something did not work; True: the port can't be reached at all, which is said once."""
        if not isinstance(error, Unreachable):
            self._failures = 0
            return False
        self._failures += 1
        if self._failures < _ATTEMPTS:
            return False
        self.close(str(error))
        return True

    def close(self, why: str) -> None:
        """Not to be tried again through this connection."""
        self.open = False
        _log.warning("no HTTP with %s, gRPC is used: %s", self._server, why)


_ways: weakref.WeakKeyDictionary[Connection, HttpWay] = weakref.WeakKeyDictionary()
