"""Where a client can read a version, best first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sync_server.challenge import Challenge
from sync_server.coordinator import Coordinator
from sync_server.domain.versions import Version
from sync_server.storage.base import BlobStore


@dataclass(frozen=True, slots=True)
class Plan:
    """A version and, where the client may map it, its file and how to know it is the same one."""

    version: Version
    path: Path | None
    challenge: Challenge | None


class Plans:
    """Answers where to read."""

    def __init__(
        self, coordinator: Coordinator, blobs: BlobStore, challenge: Challenge | None
    ) -> None:
        """`challenge`: None where clients may not map files."""
        self._coordinator = coordinator
        self._blobs = blobs
        self.challenge = challenge

    def download(self, run_id: str, number: int) -> Plan:
        """Raises what `VersionBook.get` raises, and VersionElsewhere."""
        version = self._coordinator.run(run_id).versions.get(number)
        version.check_here()
        if self.challenge is None:
            return Plan(version, None, None)
        return Plan(version, self._blobs.path(version.blob_id), self.challenge)
