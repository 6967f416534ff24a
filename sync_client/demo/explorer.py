"""The demo's explorer: waits for weights, pulls them into its own model, acts, sends its samples.

It starts from random weights of its own, and reads nothing of the trainer but through the server.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from sync_client import SyncClient, WaitOutcome, Worker, WorkerState
from sync_client.demo import events, policy, process, task
from sync_client.demo.spool import Batch, Spool
from sync_client.tensors import state_dict_digest

_BATCH = 64


class Explorer:
    """One explorer with its model. `frozen`: it waits like the others, but never pulls."""

    def __init__(self, worker: Worker, spool: Spool, seed: int, *, frozen: bool) -> None:
        self._worker = worker
        self._spool = spool
        self._frozen = frozen
        self._model = policy.build(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._version: int | None = None
        self._batches = 0

    def run(self) -> None:
        """Acts once with every version that it gets hold of, until the trainer has stopped.

        Raises RuntimeError if the trainer was lost instead.
        """
        seen: int | None = None
        while True:
            self._worker.set_state(WorkerState.WAITING_SYNC)
            result = self._worker.wait(after=seen)
            if result.outcome is WaitOutcome.TRAINER_STOPPED:
                return
            if not result.reached:
                raise RuntimeError(f"no version to wait for: {result.outcome}")
            seen = result.version if self._frozen else self._pull()
            self._worker.set_state(WorkerState.RUNNING)
            self._act()

    def _pull(self) -> int:
        pulled = self._worker.pull(into=self._model.state_dict())
        # From the tensors that the model computes with, not from what the pull said.
        digest = state_dict_digest(self._model.state_dict())
        verified = self._worker.report_applied(pulled.version, digest)
        self._version = pulled.version
        events.send(
            events.Pulled(
                who=self._worker.name,
                ended=time.monotonic(),
                version=pulled.version,
                size=sum(tensor.nbytes for tensor in pulled.state_dict.values()),
                seconds=pulled.seconds,
                same=digest == pulled.digest,
                verified=verified,
            )
        )
        return pulled.version

    def _act(self) -> None:
        prompts = task.prompts(_BATCH, self._generator)
        tokens, log_probs = policy.act(self._model, prompts, self._generator)
        rewards = task.rewards(tokens)
        self._batches += 1
        name = self._worker.name
        self._spool.put(Batch(name, self._batches, self._version, tokens, log_probs, rewards))
        events.send(
            events.Acted(
                who=name,
                ended=time.monotonic(),
                version=self._version,
                reward=float(rewards.mean()),
                text=task.text(tokens[0]),
            )
        )


def main() -> None:
    """Explores until the trainer has stopped."""
    parser = process.arguments("An explorer of weightsync demo.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--frozen", action="store_true")
    options = parser.parse_args()
    process.prepare()
    with SyncClient(options.server, run=options.run) as client:
        worker = client.register("explorer", name=options.name)
        spool = Spool(Path(options.spool))
        Explorer(worker, spool, options.seed, frozen=options.frozen).run()


if __name__ == "__main__":
    main()
