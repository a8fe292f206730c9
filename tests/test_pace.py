"""When a checkpoint is due: by steps, and by the clock where steps are slow."""

from __future__ import annotations

import pytest

from morlaif import pace, ranks


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def due(made: pace.Pace, clock: list[float], seconds: float, steps: int) -> list[int]:
    """The steps after which one is due, of so many that take `seconds` each."""
    found = []
    for step in range(1, steps + 1):
        clock[0] += seconds
        if made.due(step):
            found.append(step)
    return found


def test_fast_steps_are_counted_and_slow_ones_timed(clock):
    assert due(pace.Pace(10), clock, 1.0, 25) == [10, 20]
    assert due(pace.Pace(10), clock, 120.0, 12) == [3, 6, 9, 10]
    assert due(pace.Pace(None), clock, 1000.0, 5) == due(pace.Pace(0), clock, 1000.0, 5) == []


def test_ranks_go_by_steps_alone(clock, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    assert due(pace.Pace(10), clock, 1000.0, 12) == [10]
