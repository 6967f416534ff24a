"""How far each side got: records that are replaced whole, with compare-and-set by etag.

This is Trinity-RFT's CacheManager (later StateManager) without its files: there, two writers
overwrite each other, and a crash in the middle of a write loses the record.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_server.domain.errors import EtagMismatch, InvalidArgument, ProgressNotFound
from sync_server.domain.leases import Instant

MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """One record. `payload` is the record as the service encoded it, `saved_at` in wall seconds."""

    record_id: str
    payload: bytes
    etag: str
    saved_at: float


NEVER_SAVED = "0"
"""The etag of what is not there: etags are revisions, and those begin with 1."""


class ProgressBook:
    """The records of one run."""

    def __init__(self) -> None:
        self._records: dict[str, Progress] = {}

    def all(self) -> list[Progress]:
        """Every record, by name."""
        return [self._records[key] for key in sorted(self._records)]

    def get(self, record_id: str) -> Progress:
        """One record. Raises ProgressNotFound."""
        record = self._records.get(record_id)
        if record is None:
            raise ProgressNotFound(f"no progress {record_id!r} was saved", record=record_id)
        return record

    def save(
        self, record_id: str, payload: bytes, expected_etag: str, new_etag: str, now: Instant
    ) -> Progress:
        """The record to store. An empty `expected_etag` overwrites whatever is there, "0" is that
        of a record that was never saved.

        Raises EtagMismatch where the stored one is another (retry after reading it), and
        InvalidArgument for more than 1 MiB: progress, not experience, belongs here.
        """
        if len(payload) > MAX_RECORD_BYTES:
            raise InvalidArgument(
                f"progress of {len(payload)} bytes: {MAX_RECORD_BYTES} are allowed",
                field="progress",
            )
        stored = self._records.get(record_id)
        found = NEVER_SAVED if stored is None else stored.etag
        if expected_etag and expected_etag != found:
            raise EtagMismatch(
                f"progress {record_id!r} was saved by somebody else meanwhile",
                etag=found,
                record=record_id,
            )
        return Progress(record_id, payload, new_etag, now.wall)

    def put(self, record: Progress) -> None:
        """Stores a record that `save` returned."""
        self._records[record.record_id] = record
