"""What the trainer's and the explorers' processes have in common: arguments, signals, threads."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import torch


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what both are told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--server", required=True, help="HOST:PORT of the weightsync server")
    parser.add_argument("--run", required=True, help="run id")
    parser.add_argument("--spool", required=True, type=Path, help="directory of the samples")
    parser.add_argument("--seed", required=True, type=int)
    return parser


def prepare() -> None:
    """One thread, since several processes share few cores; SIGTERM lets `with` blocks end."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: object) -> None:
    del frame
    raise SystemExit(128 + number)
