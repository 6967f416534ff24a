"""The policy: a small LlamaForCausalLM with random weights, how it acts, and how it learns."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sync_client.demo import task

# 302,208 parameters, 21 tensors, 1.2 MB. Larger steps learn faster, but now and then break down
# when the samples are some versions old.
_HIDDEN = 128
_LEARNING_RATE = 5e-4
# Samples come from a slightly older policy; how much more likely they may count than they were.
_MAX_RATIO = 2.0
_MAX_NORM = 1.0


def build(seed: int) -> LlamaForCausalLM:
    """A new policy, float32 on the CPU; nothing is downloaded. Another seed, other weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(task.LETTERS),
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def act(
    model: LlamaForCausalLM, prompts: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples an answer to each prompt.

    prompts: int64 (batch, 1). Gives the tokens, int64 (batch, 1 + ANSWER) with the prompt, and the
    log probability of each sampled token, float32 (batch, ANSWER).
    """
    tokens, log_probs = prompts, []
    with torch.inference_mode():
        for _ in range(task.ANSWER):
            choice = model(input_ids=tokens).logits[:, -1].log_softmax(-1)
            token = torch.multinomial(choice.exp(), 1, generator=generator)
            tokens = torch.cat([tokens, token], 1)
            log_probs.append(choice.gather(1, token))
    return tokens, torch.cat(log_probs, 1)


class Reinforce:
    """REINFORCE (Williams 1992) with the batch's mean reward as the baseline, and Adam.

    Each letter has a reward of its own, so each is its own action. Samples of an older policy are
    weighted by how much more or less likely they have become (truncated importance weights).
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._model = model
        self._optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)

    def step(self, tokens: torch.Tensor, acted: torch.Tensor, rewards: torch.Tensor) -> float:
        """One step on samples as `act` and `task.rewards` give them. Gives the loss."""
        logits = self._model(input_ids=tokens[:, :-1]).logits
        log_probs = logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
        ratio = (log_probs.detach() - acted).exp().clamp(max=_MAX_RATIO)
        loss = -(ratio * (rewards - rewards.mean()) * log_probs).mean()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_NORM)
        self._optimizer.step()
        return float(loss.detach())
