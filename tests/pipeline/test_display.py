"""What is written where there is no terminal: a line every half minute about what a unit has come to."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from morlaif.pipeline import display as display_module
from morlaif.pipeline.beat import Beat
from morlaif.pipeline.display import Display
from morlaif.pipeline.timing import duration


def unit(name: str, together: str | None = None, counts: str = "step"):
    return SimpleNamespace(name=name, together=together, stage=SimpleNamespace(counts=counts))


class Shown:
    """A display whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now, self.file = 1000.0, io.StringIO()
        self.display = Display(Console(file=self.file, width=80), clock=lambda: self.now)

    def after(self, seconds: float) -> list[str]:
        self.now += seconds
        self.file.truncate(self.file.seek(0))
        self.display.beat()
        return self.file.getvalue().splitlines()


@pytest.fixture
def shown() -> Shown:
    return Shown()


def test_a_line_every_half_minute_and_none_before(shown):
    ppo = unit("ppo/morlaif")
    shown.display.begin(ppo)
    assert shown.after(29) == []
    assert shown.after(1) == ["ppo/morlaif              at work, 30 s so far"]
    assert shown.after(10) == []
    shown.display.progress(ppo, 1, 40, {"kl": 0.5, "reward": 1.234})
    (line,) = shown.after(20)  # a step in 40 s; the second has run for 20 s
    assert line == "ppo/morlaif              step 1 of 40, 1.5 a minute, 25.7 min to go, reward 1.23, 1.0 min so far"
    (line,) = shown.after(30)  # still at it: what is to go is less, the rate is what was measured
    assert "step 1 of 40, 1.5 a minute, 25.2 min to go" in line
    shown.display.end(ppo, "built", 90.0)
    shown.file.truncate(shown.file.seek(0))
    assert shown.after(60) == []


def test_units_in_one_go_share_a_line(shown):
    units = [unit(f"pm/{name}", "principles/0") for name in ("detail", "empathy", "bias")]
    for one in units:
        shown.display.begin(one)
    for one in units:
        shown.display.progress(one, 2, 8, {"loss": 0.7})
    assert shown.after(30) == ["pm/detail and 2 more     step 2 of 8, loss 0.7, 30 s so far"]
    shown.display.end(units[0], "built", 1.0)
    assert shown.after(30)[0].startswith("pm/empathy and 1 more ")


def test_a_rate_is_of_this_run_and_of_what_is_counted_now():
    beat = Beat("verdict", began=0.0, written=0.0)
    beat.on(10.0, 500, 1000, {})  # 500 of them were known
    beat.on(20.0, 510, 1000, {})
    assert "verdict 510 of 1,000, 1 a second, 8.2 min to go" in beat.line(20.0)
    beat.on(30.0, 1, 20, {})  # the judge has done; now it is policies
    assert "verdict 1 of 20, 6 a minute, 3.2 min to go" in beat.line(30.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.4, "< 1 s"), (5.49, "5.5 s"), (59, "59 s"), (91, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_steps_of_a_cache_are_no_rate():
    beat = Beat("step", began=0.0, written=0.0)
    for step in range(1, 4001):
        beat.on(step * 1e-4, step, 5000, {})
    assert beat.line(0.5) == "step 4,000 of 5,000, < 1 s so far"
    beat.on(10.4, 4020, 5000, {})
    assert "step 4,020 of 5,000, 2 a second, 8.2 min to go" in beat.line(10.4)
    beat.on(20.4, 4999, 5000, {})
    beat.on(20.5, 1, 60_000, {})  # what comes next is known in part
    beat.on(20.6, 30_000, 60_000, {})
    beat.on(30.6, 50_000, 60_000, {})
    assert "step 50,000 of 60,000, 2,000 a second, 5.0 s to go" in beat.line(30.6)


@pytest.mark.slow
def test_the_clock_runs_beside_the_work(monkeypatch):
    """In a process that builds the unit itself, which says nothing meanwhile."""
    monkeypatch.setattr(display_module, "EVERY", 0.0)
    told = threading.Event()
    file = io.StringIO()
    with Display(Console(file=file, width=80)) as shown:
        monkeypatch.setattr(shown, "say", lambda line: told.set())
        shown.begin(unit("sft"))
        assert told.wait(20)
