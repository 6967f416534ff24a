"""What the demo's policy has to learn: to go on with the alphabet, from any letter.

A prompt is one letter, an answer `ANSWER` letters; a letter is right when it follows the one before
it, with a after z. A policy that knows nothing is right once in 26 times.
"""

from __future__ import annotations

import string

import torch

LETTERS = string.ascii_lowercase
ANSWER = 6
CHANCE = 1 / len(LETTERS)


def prompts(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random prompts: int64 of shape (count, 1)."""
    return torch.randint(0, len(LETTERS), (count, 1), generator=generator)


def rewards(tokens: torch.Tensor) -> torch.Tensor:
    """1.0 for each right letter, else 0.0.

    tokens: int64 (batch, 1 + ANSWER), prompt and answer. Gives float32 (batch, ANSWER).
    """
    return (tokens[:, 1:] == (tokens[:, :-1] + 1) % len(LETTERS)).float()


def text(row: torch.Tensor) -> str:
    """One prompt and its answer for people: "d > efghij"."""
    letters = "".join(LETTERS[token] for token in row.tolist())
    return f"{letters[0]} > {letters[1:]}"
