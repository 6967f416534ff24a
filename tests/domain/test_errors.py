"""The domain's refusals against the enum that clients branch on."""

from __future__ import annotations

import pytest

from sync_server.domain import errors
from sync_server.domain.errors import ConfigMismatch, DomainError
from sync_server.services.status import STATUS_CODES
from weightsync.v1.errors_pb2 import ErrorReason

CLASSES = [
    item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, DomainError) and item is not DomainError
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_reason_is_in_the_api_and_has_a_status(error: type[DomainError]) -> None:
    assert f"ERROR_REASON_{error.reason}" in {value.name for value in ErrorReason.DESCRIPTOR.values}
    assert error.reason in STATUS_CODES


def test_no_two_classes_share_a_reason() -> None:
    assert len({error.reason for error in CLASSES}) == len(CLASSES) > 20


def test_metadata_is_text_under_any_key() -> None:
    """A configuration may well have a key named "message", and errors name the keys that differ."""
    error = ConfigMismatch("they differ", message=1, self=None, field="x")
    assert error.metadata == {"message": "1", "self": "None", "field": "x"}
    assert error.message == str(error) == "they differ"
