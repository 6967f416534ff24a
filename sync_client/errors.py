"""What can go wrong, one class for each reason, all under `SyncError`.

The server names the reason in `google.rpc.ErrorInfo`; `from_status` picks the class. Each class
says whether the same call is worth repeating. Branch on the class, never on the text.
"""

from __future__ import annotations

from typing import ClassVar


class SyncError(Exception):
    """Base of all errors of the SDK. `reason` is the server's reason code, or the SDK's own."""

    reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})


# --- of the SDK itself


class ServerUnavailable(SyncError):
    """The server can't be reached, or went away in the middle. Retry: yes; the SDK already did."""

    reason = "SERVER_UNAVAILABLE"


class DeadlineExceeded(SyncError):
    """The server took longer than `timeout` to answer. Retry: yes."""

    reason = "DEADLINE_EXCEEDED"


class ClientClosed(SyncError):
    """The client was closed. Retry: with a new client."""

    reason = "CLIENT_CLOSED"


class ForkedClient(SyncError):
    """The client was made before a fork, and its connections did not survive it.

    Retry: with a client made in this process.
    """

    reason = "FORKED_CLIENT"


class WrongThread(SyncError):
    """The blocking client was called from its own event loop, where it would wait for itself.

    Retry: no, use `AsyncSyncClient` there.
    """

    reason = "WRONG_THREAD"


class TransportUnavailable(SyncError):
    """The transport that was asked for can't be had here. Retry: with another one, or None."""

    reason = "TRANSPORT_UNAVAILABLE"


class TensorRefused(SyncError):
    """A value of the state dict can't be carried; the message names it and its dtype. Nothing was
    sent. Retry: no."""

    reason = "TENSOR_REFUSED"


class IntoRefused(SyncError):
    """`into=` does not fit the version: names, shapes or dtypes; nothing was written. Retry: no."""

    reason = "INTO_REFUSED"


class LocalFileError(SyncError):
    """A local file can't be read or written, or is no safetensors file. Retry: no."""

    reason = "LOCAL_FILE"


# --- of the server


class InvalidArgument(SyncError):
    """An argument has a value that it may not have. Retry: no."""

    reason = "INVALID_ARGUMENT"


class InvalidName(InvalidArgument):
    """A name is empty, malformed, or has a forbidden character. Retry: no."""

    reason = "INVALID_NAME"


class InvalidDuration(InvalidArgument):
    """A duration is negative or too long. Retry: no."""

    reason = "INVALID_DURATION"


class InvalidState(InvalidArgument):
    """A state that only the server sets. Retry: no."""

    reason = "INVALID_STATE"


class InvalidStream(InvalidArgument):
    """A stream broke the order of its messages. Retry: no."""

    reason = "INVALID_STREAM"


class InvalidHeader(InvalidArgument):
    """The safetensors header is malformed. Retry: no."""

    reason = "INVALID_HEADER"


class InvalidPageToken(InvalidArgument):
    """A page token that the server did not give out. Retry: from the first page."""

    reason = "INVALID_PAGE_TOKEN"


class SizeMismatch(SyncError):
    """Fewer or more bytes came than were announced. Retry: yes."""

    reason = "SIZE_MISMATCH"


class DigestMismatch(SyncError):
    """The bytes are not the ones that were announced.

    On a push: the tensors changed while they were sent, or the link damaged them. Retry: yes, with
    tensors that hold still. On a pull with `into=`: the tensors now hold a mix. Retry: yes, before
    they are used.
    """

    reason = "DIGEST_MISMATCH"


class NotFound(SyncError):
    """Base of what is not there."""

    reason = "NOT_FOUND"


class RunNotFound(NotFound):
    """No such run. Retry: no; registering or pushing creates it."""

    reason = "RUN_NOT_FOUND"


class WorkerNotFound(NotFound):
    """No such worker. Retry: after registering."""

    reason = "WORKER_NOT_FOUND"


class VersionNotFound(NotFound):
    """No such version. Retry: no."""

    reason = "VERSION_NOT_FOUND"


class VersionRetired(VersionNotFound):
    """The version existed and is gone. Retry: no, ask for the newest."""

    reason = "VERSION_RETIRED"


class TensorNotFound(NotFound):
    """The version has no tensor of that name. Retry: no."""

    reason = "TENSOR_NOT_FOUND"


class ProgressNotFound(NotFound):
    """No such progress record. Retry: no."""

    reason = "PROGRESS_NOT_FOUND"


class RendezvousNotFound(NotFound):
    """No such rendezvous. Retry: no."""

    reason = "RENDEZVOUS_NOT_FOUND"


class VersionExists(SyncError):
    """The number is taken by other bytes. Retry: no, use a higher one."""

    reason = "VERSION_EXISTS"


class VersionNotNewer(SyncError):
    """The number is not above the newest. Retry: no, use a higher one."""

    reason = "VERSION_NOT_NEWER"


class UploadInProgress(SyncError):
    """Another upload of this version is under way. Retry: yes, after it ended."""

    reason = "UPLOAD_IN_PROGRESS"


class VersionPinned(SyncError):
    """A pin keeps the version. Retry: after unpinning."""

    reason = "VERSION_PINNED"


class VersionInUse(SyncError):
    """The newest version can't be deleted. Retry: after a newer one."""

    reason = "VERSION_IN_USE"


class VersionElsewhere(SyncError):
    """The version was published as a reference, and its bytes are there. Retry: no."""

    reason = "VERSION_ELSEWHERE"


class ShardMissing(SyncError):
    """Not every shard of the version came in time; the message says which. Retry: all of them."""

    reason = "SHARD_MISSING"


class StaleGeneration(SyncError):
    """The worker's name was taken over by another process. Retry: no; stop this one."""

    reason = "STALE_GENERATION"


class LeaseExpired(SyncError):
    """The lease ran out. Retry: yes, the SDK registers again by itself unless it was replaced."""

    reason = "LEASE_EXPIRED"


class TrainerActive(SyncError):
    """A live trainer holds the run. Retry: after it stopped or its lease ran out."""

    reason = "TRAINER_ACTIVE"


class RoleMismatch(SyncError):
    """The worker's role does not allow the call. Retry: no."""

    reason = "ROLE_MISMATCH"


class IllegalTransition(SyncError):
    """The state machine has no such transition. Retry: no."""

    reason = "ILLEGAL_TRANSITION"


class StateMismatch(SyncError):
    """The state is not the expected one. Retry: after reading it."""

    reason = "STATE_MISMATCH"


class EtagMismatch(SyncError):
    """The record was changed by somebody else. Retry: after reading it."""

    reason = "ETAG_MISMATCH"


class ConfigMismatch(SyncError, ValueError):
    """The configuration differs from the run's; `metadata` has each key's change. Retry: no."""

    reason = "CONFIG_MISMATCH"


class RevisionCompacted(SyncError):
    """The history no longer reaches back that far. Retry: watch from a snapshot."""

    reason = "REVISION_COMPACTED"


class OffsetOutOfRange(SyncError):
    """An offset beyond the end. Retry: no."""

    reason = "OFFSET_OUT_OF_RANGE"


class PeerLost(SyncError):
    """A member of the group was lost. Retry: join again."""

    reason = "PEER_LOST"


class RendezvousTimeout(SyncError):
    """Not everybody came in time. Retry: join again."""

    reason = "RENDEZVOUS_TIMEOUT"


class StorageFull(SyncError):
    """The server has no room. Retry: after space was freed."""

    reason = "STORAGE_FULL"


class LimitExceeded(SyncError):
    """A limit of the server is reached. Retry: later."""

    reason = "LIMIT_EXCEEDED"


class QuotaExceeded(SyncError):
    """The run's quota is used up. Retry: after versions were deleted."""

    reason = "QUOTA_EXCEEDED"


class BlobDamaged(SyncError):
    """The stored bytes are damaged or missing. Retry: no, pull another version."""

    reason = "BLOB_DAMAGED"


class Unauthenticated(SyncError):
    """No valid credentials. Retry: no."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(SyncError):
    """The credentials do not allow the call. Retry: no."""

    reason = "PERMISSION_DENIED"


class PathNotAllowed(SyncError):
    """A path outside the allowed roots. Retry: no."""

    reason = "PATH_NOT_ALLOWED"


class InvalidTicket(SyncError):
    """A ticket that is expired or altered. Retry: with a new plan."""

    reason = "INVALID_TICKET"


class InvalidCheckpoint(SyncError):
    """A checkpoint in no known format, incomplete, or damaged. Retry: no."""

    reason = "INVALID_CHECKPOINT"


class PatchBaseMismatch(SyncError):
    """The patch's base is not what the receiver holds. Retry: with the full version."""

    reason = "PATCH_BASE_MISMATCH"


class ShuttingDown(ServerUnavailable):
    """The server is shutting down. Retry: yes, in a moment; the SDK already did."""

    reason = "SHUTTING_DOWN"


class Unimplemented(SyncError):
    """This server does not implement the call. Retry: no."""

    reason = "UNIMPLEMENTED"


class InternalError(SyncError):
    """A fault of the server; its log has the traceback. Retry: maybe."""

    reason = "INTERNAL"


def _subclasses(cls: type[SyncError]) -> list[type[SyncError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


BY_REASON: dict[str, type[SyncError]] = {cls.reason: cls for cls in _subclasses(SyncError)}
