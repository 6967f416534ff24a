"""An upload's intake, fed from a thread: where the next bytes go, page by warm page."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

from sync_server.upload_session import UploadSession

_HEADER_BYTES = 64 << 10
# Warms pages while the bytes of the window before are on their way; see `storage/disk.py`.
_warming = ThreadPoolExecutor(2, thread_name_prefix="weightsync-warm")


class Feed:
    """Feeds one session. Not for two threads at once."""

    def __init__(self, session: UploadSession) -> None:
        self._session = session
        self._intake = session.intake
        self._scratch = memoryview(bytearray(_HEADER_BYTES))
        self._ahead: Future[int] | None = None

    @property
    def received(self) -> int:
        """How many bytes of the stream were taken."""
        return self._intake.received

    @property
    def whole(self) -> bool:
        """Whether that is all."""
        return self._intake.whole

    def window(self, limit: int) -> memoryview:
        """Where the next bytes go, up to `limit` of them; `advance` takes them.

        Raises StorageFull, and UploadInProgress where a later attempt took this one's place.
        """
        self._session.check()
        intake = self._intake
        if intake.layout is None:
            missing = intake.header_size - intake.received
            return self._scratch[: min(missing, limit, _HEADER_BYTES)]
        if intake.received >= intake.ready:
            self._warm()
        return intake.window(limit)

    def advance(self, count: int) -> None:
        """Takes what came into the last window. Raises InvalidHeader, StorageFull."""
        intake = self._intake
        if intake.layout is not None:
            intake.advance(count)
            return
        intake.gather(self._scratch[:count])
        if intake.header_is_whole:
            intake.examine()
            intake.check_whole()
            intake.reserve()
            while intake.ready < intake.header_size:
                self._warm()
            intake.store_header()

    def settle(self) -> None:
        """Waits for what is being made warm: nobody may close the blob before."""
        if self._ahead is not None:
            wait([self._ahead])

    def _warm(self) -> None:
        """Makes the next window warm, and begins with the one after it."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        else:
            self._intake.prepare()
        if self._intake.ready < self._intake.request.size_bytes:
            self._ahead = _warming.submit(self._intake.prepare)
