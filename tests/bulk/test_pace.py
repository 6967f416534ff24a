"""Who is too slow, and who is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_server.bulk.pace import MIN_BYTES_PER_SECOND, Pace, TooSlow


@given(window=st.floats(0.1, 3600), pieces=st.lists(st.floats(0.001, 2.0), max_size=50))
def test_the_least_pace_is_enough(window: float, pieces: list[float]) -> None:
    pace, now = Pace(window, 5.0), 5.0
    for seconds in pieces:
        now += seconds * window
        pace.moved(int(MIN_BYTES_PER_SECOND * seconds * window) + 1, now)


@given(window=st.floats(0.1, 3600), steps=st.integers(1, 200))
def test_half_of_it_is_not(window: float, steps: int) -> None:
    pace = Pace(window, 0.0)
    step = window / steps
    piece = int(MIN_BYTES_PER_SECOND * step / 2)
    for number in range(1, steps):
        pace.moved(piece, number * step)
    with pytest.raises(TooSlow):
        pace.moved(piece, window)


def test_each_window_counts_by_itself() -> None:
    pace = Pace(10.0, 0.0)
    pace.moved(1 << 40, 10.0)  # what was fast once may not stop for ever
    pace.moved(0, 19.9)
    with pytest.raises(TooSlow, match="0 bytes in 10 s"):
        pace.moved(0, 20.0)


def test_a_transfer_has_a_window_to_begin() -> None:
    pace = Pace(10.0, 0.0)
    for tenth in range(100):
        pace.moved(1, tenth / 10)
    with pytest.raises(TooSlow, match="101 bytes in 10 s"):
        pace.moved(1, 10.0)
