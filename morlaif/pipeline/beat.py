"""What a unit at work has come to, in a line: for whoever reads a file and not a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from morlaif.pipeline.timing import duration

KNOWN = 1.0  # seconds from the start within which steps may come from a cache, or from an earlier run
SHOWN_FIRST = ("reward", "loss", "accuracy", "train_loss", "kl")  # the metric that a line of progress shows


def shown_metric(metrics: Mapping[str, float]) -> str:
    others = (name for name in metrics if name not in ("per_second", "learning_rate"))
    name = next((name for name in SHOWN_FIRST if name in metrics), next(others, None))
    return f"{name} {metrics[name]:.3g}" if name is not None else ""


@dataclass
class Beat:
    """The progress of a unit, or of several that are built in one go. Times in seconds, of one clock."""

    counts: str  # what a step is
    began: float
    written: float  # when the last line was
    step: int = 0
    total: int | None = None
    metric: str = ""
    came: float | None = None  # when the last step came
    start: float = 0.0  # of what it counts now
    since: tuple[float, int] = field(default=(0.0, 0))  # whence the rate is taken: time, step

    def on(self, now: float, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        if self.came is None or total != self.total or step < self.step:  # it counts something else from here on
            self.start = self.began if self.came is None else self.came
            self.since = (self.start, 0) if step <= 1 else (now, step)  # earlier steps may be another run's
        if now - self.start < KNOWN:
            self.since = (now, step)
        self.step, self.total, self.came = step, total, now
        self.metric = shown_metric(metrics) or self.metric

    def line(self, now: float) -> str:
        """Such as: step 12 of 40, 3.1 a minute, 9 min to go, reward 0.52, 4 min so far."""
        spent = f"{duration(now - self.began)} so far"
        if self.came is None:
            return f"at work, {spent}"
        of = f" of {self.total:,}" if self.total else ""
        parts = [f"{self.counts} {self.step:,}{of}"]
        start, first = self.since
        if self.step > first and self.came > start:
            rate = (self.step - first) / (self.came - start)
            parts.append(_rate(rate))
            if self.total and self.step < self.total:
                parts.append(f"{duration(max(0.0, (self.total - self.step) / rate - (now - self.came)))} to go")
        return ", ".join([*parts, *([self.metric] if self.metric else []), spent])


def _rate(rate: float) -> str:
    """Of steps a second, in the unit in which it is a number to read."""
    for factor, unit in ((1, "second"), (60, "minute")):
        if rate * factor >= 1:
            return f"{rate * factor:,.0f} a {unit}" if rate >= 100 else f"{rate * factor:.3g} a {unit}"
    return f"{rate * 3600:.3g} an hour"
