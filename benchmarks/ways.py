"""What a round measures, and in which order. The names are those of the JSON."""

from __future__ import annotations

GIB = 2**30
SOCKET, MEMCPY, MAPPED = "plain socket", "memcpy", "mapped pull shared-memory"
TRANSPORTS = ("grpc", "http", "shared-memory")
PUSH, PULL = "push {}", "pull {}"


def size_text(size_bytes: int) -> str:
    """Such as "64 MiB" or "1.5 GiB"."""
    if round(size_bytes / 2**20) < 1024:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / GIB:.2f}".rstrip("0").rstrip(".") + " GiB"


def both(name: str) -> tuple[str, str]:
    """Push and pull of a transport or a rival."""
    return PUSH.format(name), PULL.format(name)


OURS = (*(way for transport in TRANSPORTS for way in both(transport)), MAPPED)
REFERENCES = (SOCKET, MEMCPY)


def all_ways(rivals: tuple[str, ...] = ()) -> tuple[str, ...]:
    """References, ours, then push and pull of each rival."""
    return (*REFERENCES, *OURS, *(way for rival in rivals for way in both(rival)))


def counterpart(way: str, rival: str) -> str:
    """The rival's way in the same direction: a push beside a push, every pull beside its pull."""
    push, pull = both(rival)
    return push if way.startswith("push ") else pull
