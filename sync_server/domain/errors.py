"""What the domain refuses, one class for each reason.

The classes know nothing of gRPC. `reason` is the name of a value of the proto enum
`ErrorReason` without its prefix; `services/status.py` holds the one table that maps the
reasons to gRPC status codes. `metadata` is for machines (all strings), the text for people.
"""

from __future__ import annotations

from typing import ClassVar


class DomainError(Exception):
    """Base of everything that is refused with a reason."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, /, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(DomainError):
    """A field has a value that it may not have."""

    reason = "INVALID_ARGUMENT"


class InvalidName(DomainError):
    """A resource name or id is malformed."""

    reason = "INVALID_NAME"


class InvalidDuration(DomainError):
    """A duration is negative, zero where it may not be, or too long."""

    reason = "INVALID_DURATION"


class InvalidState(DomainError):
    """A state that only the server sets, or none."""

    reason = "INVALID_STATE"


class InvalidStream(DomainError):
    """A stream broke the documented order of its messages."""

    reason = "INVALID_STREAM"


class InvalidHeader(DomainError):
    """The safetensors header is malformed or hostile."""

    reason = "INVALID_HEADER"


class SizeMismatch(DomainError):
    """Fewer or more bytes came than were announced."""

    reason = "SIZE_MISMATCH"


class DigestMismatch(DomainError):
    """The bytes do not have the announced digest."""

    reason = "DIGEST_MISMATCH"


class RunNotFound(DomainError):
    """No such run."""

    reason = "RUN_NOT_FOUND"


class WorkerNotFound(DomainError):
    """No such worker is registered."""

    reason = "WORKER_NOT_FOUND"


class VersionNotFound(DomainError):
    """No such active version."""

    reason = "VERSION_NOT_FOUND"


class VersionRetired(DomainError):
    """The version existed and can no longer be pulled."""

    reason = "VERSION_RETIRED"


class TensorNotFound(DomainError):
    """The version has no tensor of that name."""

    reason = "TENSOR_NOT_FOUND"


class ProgressNotFound(DomainError):
    """No such progress record."""

    reason = "PROGRESS_NOT_FOUND"


class VersionExists(DomainError):
    """The number is taken by other bytes."""

    reason = "VERSION_EXISTS"


class VersionNotNewer(DomainError):
    """The number is not above the newest of the same trainer generation."""

    reason = "VERSION_NOT_NEWER"


class UploadInProgress(DomainError):
    """Somebody else is uploading this number."""

    reason = "UPLOAD_IN_PROGRESS"


class VersionPinned(DomainError):
    """A pin keeps the version."""

    reason = "VERSION_PINNED"


class VersionInUse(DomainError):
    """The newest version can't be deleted."""

    reason = "VERSION_IN_USE"


class VersionElsewhere(DomainError):
    """The version was published as a reference: there are no bytes of it here."""

    reason = "VERSION_ELSEWHERE"


class ShardMissing(DomainError):
    """Not every shard of a version came in time."""

    reason = "SHARD_MISSING"


class StaleGeneration(DomainError):
    """The name was taken over by a higher generation."""

    reason = "STALE_GENERATION"


class LeaseExpired(DomainError):
    """The lease ran out before this write."""

    reason = "LEASE_EXPIRED"


class TrainerActive(DomainError):
    """Another live trainer holds the run."""

    reason = "TRAINER_ACTIVE"


class RoleMismatch(DomainError):
    """The worker's role does not allow this."""

    reason = "ROLE_MISMATCH"


class IllegalTransition(DomainError):
    """The state machine has no such transition."""

    reason = "ILLEGAL_TRANSITION"


class StateMismatch(DomainError):
    """Compare-and-set found another state."""

    reason = "STATE_MISMATCH"


class EtagMismatch(DomainError):
    """The record was saved by somebody else meanwhile."""

    reason = "ETAG_MISMATCH"


class ConfigMismatch(DomainError):
    """The configuration differs from the run's."""

    reason = "CONFIG_MISMATCH"


class RevisionCompacted(DomainError):
    """The history no longer reaches back that far."""

    reason = "REVISION_COMPACTED"


class OffsetOutOfRange(DomainError):
    """An offset beyond the end."""

    reason = "OFFSET_OUT_OF_RANGE"


class InvalidPageToken(DomainError):
    """A page token that this server did not give out."""

    reason = "INVALID_PAGE_TOKEN"


class RendezvousNotFound(DomainError):
    """Nobody ever joined a rendezvous of that name."""

    reason = "RENDEZVOUS_NOT_FOUND"


class RendezvousTimeout(DomainError):
    """Not everybody came in time."""

    reason = "RENDEZVOUS_TIMEOUT"


class PeerLost(DomainError):
    """Somebody without whom the group can't form has stopped or was lost."""

    reason = "PEER_LOST"


class StorageFull(DomainError):
    """The blob store has no room."""

    reason = "STORAGE_FULL"


class LimitExceeded(DomainError):
    """A limit of the server is reached."""

    reason = "LIMIT_EXCEEDED"


class InvalidTicket(DomainError):
    """A ticket that this server did not sign, that is over, or that is for something else."""

    reason = "INVALID_TICKET"


class BlobDamaged(DomainError):
    """The stored bytes are damaged or missing."""

    reason = "BLOB_DAMAGED"


class ShuttingDown(DomainError):
    """The server is about to stop; try again in a moment."""

    reason = "SHUTTING_DOWN"
