"""Waits of the SDK: nothing that is said between two of their polls is missed."""

from __future__ import annotations

import pytest
import torch

from sync_client import SyncClient, WaitOutcome, errors


def test_a_notice_between_two_waits_is_not_missed(client: SyncClient) -> None:
    client.push({"a": torch.ones(2)}, version=1)
    trainer = client.register("trainer")
    first = client.wait(after=1, timeout=0)
    assert first.outcome is WaitOutcome.TIMED_OUT
    trainer.notify_nothing_new()
    second = client.wait(after=1, timeout=5, after_revision=first.revision)
    assert second.outcome is WaitOutcome.NOTHING_NEW
    # What was said before the answer counts no more, nor without a revision.
    third = client.wait(after=1, timeout=0.1, after_revision=second.revision)
    assert third.outcome is WaitOutcome.TIMED_OUT
    assert client.wait(after=1, timeout=0.1).outcome is WaitOutcome.TIMED_OUT


def test_the_polls_of_one_wait_are_seamless(
    client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Very short polls, and a notice after each: every one of them ends its wait."""
    monkeypatch.setattr("sync_client.control._POLL_SECONDS", 0.002)
    client.push({"a": torch.ones(2)}, version=1)
    trainer = client.register("trainer")
    revision = client.wait(after=1, timeout=0).revision
    for _ in range(50):
        trainer.notify_nothing_new()
        found = client.wait(after=1, timeout=5, after_revision=revision)
        assert found.outcome is WaitOutcome.NOTHING_NEW
        revision = found.revision


def test_a_wait_without_a_run_says_so(client: SyncClient) -> None:
    with pytest.raises(errors.RunNotFound):
        client.wait(timeout=0)
