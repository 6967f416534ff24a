"""The demo's trainer: takes samples, takes a REINFORCE step, pushes the new weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from sync_client import SyncClient, Worker
from sync_client.demo import events, policy, process
from sync_client.demo.spool import Batch, Spool

NAME = "trainer"
_LOOK_SECONDS = 0.002


def main() -> None:
    """Trains for `--steps` steps and leaves, which tells the explorers that it is over."""
    parser = process.arguments("The trainer of weightsync demo.")
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--explorers", required=True, type=int)
    options = parser.parse_args()
    process.prepare()
    model = policy.build(options.seed)
    spool = Spool(options.spool)
    reinforce = policy.Reinforce(model)
    with SyncClient(options.server, run=options.run) as client:
        trainer = client.register("trainer", name=NAME)
        _push(trainer, model, version=0, samples=0)
        for version in range(1, options.steps + 1):
            # All begin together; from then on whoever has samples is not waited for.
            batches = _take(spool, options.explorers if version == 1 else 1)
            tokens = torch.cat([batch.tokens for batch in batches])
            acted = torch.cat([batch.log_probs for batch in batches])
            rewards = torch.cat([batch.rewards for batch in batches])
            reinforce.step(tokens, acted, rewards)
            _push(trainer, model, version, samples=len(tokens))


def _take(spool: Spool, least: int) -> Sequence[Batch]:
    batches = list(spool.take())
    while len(batches) < least:
        time.sleep(_LOOK_SECONDS)
        batches += spool.take()
    return batches


def _push(trainer: Worker, model: torch.nn.Module, version: int, samples: int) -> None:
    started = time.monotonic()
    info = trainer.push(model.state_dict(), version)
    ended = time.monotonic()
    # From the server's clock; one of another machine may be off.
    visible = min(max(ended - (time.time() - info.commit_time), started), ended)
    events.send(events.Pushed(NAME, started, visible, ended, version, info.size, samples))


if __name__ == "__main__":
    main()
